package shim

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// Sizes of what is drawn for each instance, in bytes.
const (
	generationBytes = 16
	entropyBytes    = 64
)

// said is the file "instance" of an instance, as JSON.
type said struct {
	ID        string        `json:"id"`
	Namespace string        `json:"namespace"`
	Seed      string        `json:"seed"`
	Rung      seedpool.Rung `json:"rung"`
}

// tellIdentity writes into the instance which one it is: generation, which no other wake has; entropy; the late variables, as in /proc/PID/environ; and the container's
// names. An instance of a seed that has no place for them is told nothing.
func (a *attempt) tellIdentity() error {
	if !a.seed.Identity {
		return nil
	}
	drawn := make([]byte, generationBytes+entropyBytes)
	if _, err := rand.Read(drawn); err != nil {
		return err
	}
	who, err := json.Marshal(said{ID: a.ask.ID, Namespace: a.ns, Seed: a.seed.Name, Rung: a.rung})
	if err != nil {
		return err
	}
	return linux.ReplaceFiles(int(a.instance.Pid), bake.IdentityDir, []linux.File{
		{Name: "instance", Data: append(who, '\n')},
		{Name: "env", Data: lateEnv(a.spec.Process.Env, a.seed.LateEnv)},
		{Name: "entropy", Data: drawn[generationBytes:]},
		// The last: an app that sees it changed finds the others.
		{Name: "generation", Data: fmt.Appendln(nil, hex.EncodeToString(drawn[:generationBytes]))},
	})
}

// lateEnv are those variables of env that have one of the names, each followed by a zero byte.
func lateEnv(env, names []string) (out []byte) {
	for _, variable := range env {
		if name, _, _ := strings.Cut(variable, "="); slices.Contains(names, name) {
			out = append(append(out, variable...), 0)
		}
	}
	return out
}
