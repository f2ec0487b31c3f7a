package masterkey

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestKeyIsMadeOnceAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "master.key")
	first, err := ReadOrMake(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	second, err := ReadOrMake(path)
	if err != nil || strings.TrimSpace(second.Reveal()) != first.Reveal() || first.Empty() {
		t.Errorf("another key was read, %v", err)
	}
}

func TestKeyThatOthersCanReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte("key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadOrMake(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("error %v", err)
	}
}

// What one process has sealed under its key, another one could not open.
func TestOfProcessesThatMakeAKeyOneDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.key")
	var keys sync.Map
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if key, err := ReadOrMake(path); err == nil { // who was too late fails, and finds it next time
				keys.Store(strings.TrimSpace(key.Reveal()), true)
			}
		})
	}
	all.Wait()
	n := 0
	keys.Range(func(any, any) bool { n++; return true })
	if left, _ := filepath.Glob(path + ".*"); n != 1 || len(left) > 0 {
		t.Errorf("%d keys are in use, and %v is left", n, left)
	}
}
