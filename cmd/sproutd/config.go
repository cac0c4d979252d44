package main

import (
	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool"
)

// loadConfig reads the file that was named, which must exist, or the default one, which need not. The log follows it.
func loadConfig(file string) (seedpool.Config, error) {
	named := file != ""
	if !named {
		file = seedpool.DefaultConfigFile
	}
	c, err := seedpool.LoadConfig(file, named)
	if err != nil {
		return c, err
	}
	return c, log.SetLevel(c.LogLevel)
}
