package shim

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sproutrun/sprout/seedpool"
)

// shimCgroup is the cgroup that the options want the shim in; empty: it stays where it is.
func shimCgroup(p seedpool.ShimParams) (string, error) {
	if len(p.Options) == 0 {
		return p.Cgroup, nil
	}
	var given anypb.Any
	if err := proto.Unmarshal(p.Options, &given); err != nil {
		return "", fmt.Errorf("decode runtime options: %w", err)
	}
	packed, err := runcOptions(&given)
	if err != nil {
		return "", err
	}
	var opts options.Options
	if err := typeurl.UnmarshalTo(packed, &opts); err != nil {
		return "", fmt.Errorf("decode runtime options: %w", err)
	}
	return opts.ShimCgroup, nil
}

// runcOptions gives runtime options the form that runc's have. The CRI plugin knows only runc's own runtime type: the options of any other it passes on as the text of
// its configuration, or as the name of a file with such text. Others are left as they are.
func runcOptions(given *anypb.Any) (*anypb.Any, error) {
	var generic runtimeoptions.Options
	if given.GetValue() == nil || !typeurl.Is(given, &generic) {
		return given, nil
	}
	if err := typeurl.UnmarshalTo(given, &generic); err != nil {
		return nil, fmt.Errorf("decode runtime options: %w", err)
	}
	text := generic.ConfigBody
	if len(text) == 0 && generic.ConfigPath != "" {
		var err error
		if text, err = os.ReadFile(generic.ConfigPath); err != nil {
			return nil, fmt.Errorf("read runtime options: %w", err)
		}
	}
	var opts options.Options
	if err := toml.Unmarshal(text, &opts); err != nil {
		return nil, fmt.Errorf("read runtime options: %w", err)
	}
	return typeurl.MarshalAnyToProto(&opts)
}
