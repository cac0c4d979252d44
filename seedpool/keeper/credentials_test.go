package keeper

import (
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestCredentialsAreThoseOfEveryThread(t *testing.T) {
	var err error
	other := exec.Command("/usr/bin/setpriv", "--reuid", "7", "--regid", "8", "--groups", "9,10", "--bounding-set", "-sys_admin", "--no-new-privs", "sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	var theirs linux.Creds
	for theirs.CapPrm != 0 || !theirs.NoNewPrivs || theirs.Uids[3] != 7 {
		if theirs, err = linux.ReadCreds(other.Process.Pid, other.Process.Pid); err != nil || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	threads, err := linux.Threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ours, err := linux.ReadCreds(os.Getpid(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	got, err := readCredentials([]int{os.Getpid(), other.Process.Pid})
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if diff := cmp.Diff([]linux.Creds{ours, theirs}, []linux.Creds{CredsOf(got[0]), CredsOf(got[1])}); diff != "" {
		t.Error(diff)
	}
	if n := int(got[0].Threads); n < len(threads) || got[1].Threads != 1 {
		t.Errorf("%d of %d threads, and %d of 1", n, len(threads), got[1].Threads)
	}
}
