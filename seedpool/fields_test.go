package seedpool

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestEveryFieldOfTheSpecificationIsInTheKeyBoundLateOrRefused walks the types of the specification. The file says of each field what becomes of it; a version that has
// another field fails here until somebody has decided, and an instance can be given it or it is refused.
func TestEveryFieldOfTheSpecificationIsInTheKeyBoundLateOrRefused(t *testing.T) {
	want, err := os.ReadFile("testdata/spec-fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	got := fieldsOf(reflect.TypeFor[specs.Spec](), "", eachField)
	if diff := cmp.Diff(strings.Split(strings.TrimSpace(string(want)), "\n"), got); diff != "" {
		t.Errorf("the specification is not that of testdata/spec-fields.txt, or fields.go says something else of it:\n%s", diff)
	}
	for _, line := range got {
		if strings.HasSuffix(line, ": "+string(unsaid)) {
			t.Errorf("%s: fields.go has no line for it", line)
		}
	}
	for where := range handlings {
		if !slices.ContainsFunc(got, func(line string) bool {
			return strings.HasPrefix(line, where+":") || strings.HasPrefix(line, where+".")
		}) {
			t.Errorf("%s: the specification has no such field", where)
		}
	}
}

// unsaid is a field that has no line and no field above it that has.
const unsaid handling = "unknown"

// fieldsOf lists the fields below a type, sorted, with what becomes of them. What is refused is not looked into.
func fieldsOf(of reflect.Type, prefix string, above handling) (list []string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct {
		return nil
	}
	for n := range of.NumField() {
		f := of.Field(n)
		if f.Anonymous {
			list = append(list, fieldsOf(f.Type, prefix, above)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		where := prefix + name
		h, known := handlings[where]
		switch {
		case !known && above == eachField:
			h = unsaid
		case !known:
			h = above
		}
		var below []string
		if h != refused {
			below = fieldsOf(f.Type, where+".", h)
		}
		if len(below) == 0 {
			below = []string{where + ": " + string(h)}
		}
		list = append(list, below...)
	}
	slices.Sort(list)
	return list
}

func TestWhatNoWokenContainerCouldHaveIsRefusedByName(t *testing.T) {
	for field, text := range map[string]string{
		"process.ioPriority":         `{"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}}`,
		"process.scheduler":          `{"process": {"scheduler": {"policy": "SCHED_FIFO", "priority": 1}}}`,
		"linux.intelRdt":             `{"linux": {"intelRdt": {"closID": "x"}}}`,
		"linux.memoryPolicy":         `{"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}}`,
		"linux.netDevices":           `{"linux": {"netDevices": {"eth1": {}}}}`,
		"linux.timeOffsets":          `{"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}`,
		"linux.mountLabel":           `{"linux": {"mountLabel": "system_u:object_r:container_file_t:s0"}}`,
		"linux.seccomp.listenerPath": `{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/listener"}}}`,
		"mounts.uidMappings":         `{"mounts": [{"destination": "/a"}, {"destination": "/b", "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}]}`,
		"vm":                         `{"vm": {"kernel": {"path": "/vmlinuz"}}}`,
		`kind "time"`:                `{"linux": {"namespaces": [{"type": "time"}]}}`,
	} {
		t.Run(field, func(t *testing.T) {
			s := spec()
			if err := json.Unmarshal([]byte(text), s); err != nil {
				t.Fatal(err)
			}
			if _, err := KeyOf(s); err == nil || !strings.Contains(err.Error(), field) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAFieldThatIsNotKnownIsRefused(t *testing.T) {
	for _, text := range []string{`{"colour": "red"}`, `{"process": {"colour": "red"}}`, `{"linux": {"resources": {"memory": {"colour": 1}}}}`} {
		if _, err := DecodeSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), "colour") {
			t.Errorf("%s: %v", text, err)
		}
	}
	// A version of the specification that has more fields than handlings has lines.
	if err := refuseFields("", map[string]any{"linux": map[string]any{"colour": "red"}}); err == nil || !strings.Contains(err.Error(), "linux.colour") {
		t.Errorf("%v", err)
	}
}
