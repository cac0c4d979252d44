// Package api is the wire format between sproutd, its shims, its keepers and the command line: protobuf messages and ttrpc services.
//
// Everything in it but this file and refusal.go is generated from sprout.proto by `make generate`.
package api

//go:generate sh -c "protoc -I . --plugin=protoc-gen-go=../../../_out/bin/protoc-gen-go --plugin=protoc-gen-go-ttrpc=../../../_out/bin/protoc-gen-go-ttrpc --go_out=paths=source_relative:. --go-ttrpc_out=paths=source_relative:. sprout.proto"
