// Package integration holds the tests that need the whole house: a real containerd, runc, CRIU and kernel, and real applications.
//
// They run as root, find binaries and images in SPROUT_OUT (default: _out at the top of the checkout) and fail, never skip, when something is missing:
// `make test` installs all of it. Files: cold_test.go the cold rung, wake_test.go thaw and restore, fallback_test.go each cause of a fallback,
// crash_test.go kill -9 of every process, leak_test.go two hundred cycles on each rung, input_test.go bad input, security_test.go a hostile container, doors_test.go our sockets and
// files, hooks_test.go OCI hooks beside runc's, network_test.go networks by CNI, cri_test.go and
// cri_life_test.go pods, hosts_test.go file systems. The import rule is a package of its own, imports.
package integration
