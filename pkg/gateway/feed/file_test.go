package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/spec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target records what it is given.
type target struct {
	mu      sync.Mutex
	applied []string // names of the only route, in order
	refused error    // the last, until a document is applied
	times   int      // how often Refused was called
	refuse  error    // what Apply returns
}

func (t *target) Apply(doc spec.Document) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuse != nil {
		return t.refuse
	}
	t.refused = nil
	t.applied = append(t.applied, doc.Routes[0].Name)
	return nil
}

func (t *target) Refused(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused = err
	t.times++
}

func (t *target) refusals() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times
}

func (t *target) last() (name string, n int, refused error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.applied) == 0 {
		return "", 0, t.refused
	}
	return t.applied[len(t.applied)-1], len(t.applied), t.refused
}

// log is a log that can be read while it is written.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func document(route string) string {
	return fmt.Sprintf("version: 1\nservices: [{name: a, url: \"http://a\"}]\nroutes: [{name: %s, service: a}]\n", route)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// start loads path and runs the feed for the time of the test.
func start(t *testing.T, path string, watch bool) (*File, *target, *log) {
	t.Helper()
	to, l := &target{}, &log{}
	f := NewFile(path, watch, to, slog.New(slog.NewTextHandler(l, nil)))
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	run(t, f)
	return f, to, l
}

func run(t *testing.T, f *File) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

func (t *target) is(name string) func() bool {
	return func() bool { got, _, refused := t.last(); return got == name && refused == nil }
}

func TestLoadReturnsItsError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	to := &target{}
	f := NewFile(path, true, to, slog.New(slog.DiscardHandler))
	if err := f.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	write(t, path, "version: 1\nroots: []\n")
	var invalid *spec.Violations
	if err := f.Load(); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "gateway.yaml:2:1: roots: unknown field") {
		t.Errorf("an invalid file gives %v", err)
	}
	write(t, path, document("first"))
	to.refuse = errors.New("cannot be built")
	if err := f.Load(); !errors.Is(err, to.refuse) {
		t.Errorf("a document that is not applied gives %v", err)
	}
}

func TestRunAppliesChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	for name, change := range map[string]func(text string){
		"in place": func(text string) { write(t, path, text) },
		"by rename": func(text string) {
			write(t, path+".new", text)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"by deletion": func(text string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			write(t, path, document("first"))
			_, to, _ := start(t, path, true)
			change(document("second"))
			eventually(t, "second document", to.is("second"))
		})
	}
}

// TestRunFollowsSwappedLinks changes a file the way Kubernetes changes a mounted
// ConfigMap: the file is a link through a folder that is replaced.
func TestRunFollowsSwappedLinks(t *testing.T) {
	dir := t.TempDir()
	version := func(name string) {
		folder := filepath.Join(dir, ".."+name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, "gateway.yaml"), document(name))
		if err := os.Symlink(".."+name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("v1")
	path := filepath.Join(dir, "gateway.yaml")
	if err := os.Symlink(filepath.Join("..data", "gateway.yaml"), path); err != nil {
		t.Fatal(err)
	}
	_, to, _ := start(t, path, true)
	for _, name := range []string{"v2", "v3"} {
		version(name)
		eventually(t, name, to.is(name))
		if err := os.RemoveAll(filepath.Join(dir, "..v1")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRunFollowsALinkElsewhere changes the file that a link in another folder
// leads to.
func TestRunFollowsALinkElsewhere(t *testing.T) {
	there, here := t.TempDir(), t.TempDir()
	write(t, filepath.Join(there, "real.yaml"), document("first"))
	path := filepath.Join(here, "gateway.yaml")
	if err := os.Symlink(filepath.Join(there, "real.yaml"), path); err != nil {
		t.Fatal(err)
	}
	_, to, _ := start(t, path, true)
	write(t, filepath.Join(there, "real.yaml"), document("second"))
	eventually(t, "second document", to.is("second"))

	elsewhere := t.TempDir()
	write(t, filepath.Join(elsewhere, "real.yaml"), document("third"))
	replaceLink(t, path, filepath.Join(elsewhere, "real.yaml"))
	eventually(t, "third document", to.is("third"))
	write(t, filepath.Join(elsewhere, "real.yaml"), document("fourth"))
	eventually(t, "fourth document", to.is("fourth"))
}

func replaceLink(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Symlink(to, from+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from+".new", from); err != nil {
		t.Fatal(err)
	}
}

func TestInvalidDocumentIsReportedAndThePreviousOneGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, path, document("first"))
	_, to, l := start(t, path, true)

	write(t, path, "version: 1\nservices:\n  - {nam: a}\n")
	eventually(t, "refusal", func() bool { _, _, err := to.last(); return err != nil })
	if name, n, _ := to.last(); name != "first" || n != 1 {
		t.Errorf("%d documents applied, the last is %s", n, name)
	}
	eventually(t, "log entry", func() bool {
		return strings.Contains(l.String(), "gateway.yaml:3:6: services[0].nam: unknown field, did you mean name?")
	})

	write(t, path, document("first")) // back to what is served
	eventually(t, "end of the failure", to.is("first"))
}

func TestMissingFileIsReportedOnceAndItsReturnEndsTheFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, path, document("first"))
	to, l := &target{}, &log{}
	f := NewFile(path, true, to, slog.New(slog.NewTextHandler(l, nil)))
	f.poll = 20 * time.Millisecond
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	run(t, f)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "several polls", func() bool { return to.refusals() >= 4 })
	if _, _, err := to.last(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the failure is %v", err)
	}
	if n := strings.Count(l.String(), "cannot be read"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, "end of the failure", to.is("first"))
}

func TestReloadAppliesWithoutWatching(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, path, document("first"))
	f, to, _ := start(t, path, false)
	write(t, path, document("second"))
	f.Reload()
	eventually(t, "second document", to.is("second"))
	f.Reload() // nothing new: applied all the same, for the target to ignore
	eventually(t, "third application", func() bool { _, n, _ := to.last(); return n == 3 })
}

func TestReloadReportsTheSameFailureAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, path, document("first"))
	f, _, l := start(t, path, false)
	write(t, path, "version: 2\n")
	for n := 1; n <= 2; n++ {
		f.Reload()
		eventually(t, fmt.Sprint(n, " log entries"), func() bool { return strings.Count(l.String(), "version: must be 1") == n })
	}
}

func TestRunNoticesWhatChangedBeforeIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.yaml")
	write(t, path, document("first"))
	to := &target{}
	f := NewFile(path, true, to, slog.New(slog.DiscardHandler))
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	write(t, path, document("second"))
	run(t, f)
	eventually(t, "second document", to.is("second"))
}

// TestPollingFindsWhatNobodyNotified changes a link halfway to the file, in a
// folder that is not watched.
func TestPollingFindsWhatNobodyNotified(t *testing.T) {
	files, middle, here := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(files, "1.yaml"), document("first"))
	write(t, filepath.Join(files, "2.yaml"), document("second"))
	halfway, path := filepath.Join(middle, "link.yaml"), filepath.Join(here, "gateway.yaml")
	replaceLink(t, halfway, filepath.Join(files, "1.yaml"))
	replaceLink(t, path, halfway)
	to := &target{}
	f := NewFile(path, true, to, slog.New(slog.DiscardHandler))
	f.poll = 10 * time.Millisecond
	if err := f.Load(); err != nil {
		t.Fatal(err)
	}
	run(t, f)
	replaceLink(t, halfway, filepath.Join(files, "2.yaml"))
	eventually(t, "second document", to.is("second"))
}
