package seedpool

import "context"

type sproutdOptions struct{}

func (o sproutdOptions) run(context.Context) error { return nil }

func idleProcess(string) error { return nil }
