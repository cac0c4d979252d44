package api

// Error makes a Refusal a detail that errgrpc carries from server to client, where errors.As finds it.
func (r *Refusal) Error() string { return r.GetReason() }

// CollapseError keeps the code out of the text of the error that it travels with.
func (r *Refusal) CollapseError() {}
