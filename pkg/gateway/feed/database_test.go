package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keywarden/keywarden/pkg/revision"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/spec"
)

var errAway = errors.New("the database is away")

// shelf is a store of revisions in memory.
type shelf struct {
	mu      sync.Mutex
	current revision.Revision
	away    bool
	asked   int
	reports []revision.Serving
}

func (s *shelf) CurrentUnless(_ context.Context, number int64, digest string) (revision.Revision, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch {
	case s.away:
		return revision.Revision{}, false, errAway
	case s.current.Number == 0:
		return revision.Revision{}, false, revision.ErrNone
	case s.current.Number == number && s.current.Digest == digest:
		return revision.Revision{}, false, nil
	}
	return s.current, true, nil
}

func (s *shelf) Report(_ context.Context, v revision.Serving) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	s.reports = append(s.reports, v)
	return nil
}

// put makes the document with that route the next revision.
func (s *shelf) put(t *testing.T, route string) {
	t.Helper()
	s.putText(canonical(t, route))
}

func (s *shelf) putText(document []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = revision.Revision{Number: s.current.Number + 1, Digest: fmt.Sprintf("%x", document), Document: document}
}

func (s *shelf) isAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// reported are the reports since the last call.
func (s *shelf) reported() []revision.Serving {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reports
	s.reports = nil
	return r
}

func canonical(t *testing.T, route string) []byte {
	t.Helper()
	doc, err := spec.Parse("", []byte(document(route)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newRing(t *testing.T) *seal.Keyring {
	t.Helper()
	ring, err := seal.ParseKeyring(seal.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// replica is a feed from a shelf with what it feeds.
type replica struct {
	*Database
	*shelf
	to   *target
	log  *log
	ring *seal.Keyring
}

func newReplica(t *testing.T, from *shelf, path string, ring *seal.Keyring) *replica {
	t.Helper()
	r := &replica{shelf: from, to: &target{}, log: &log{}, ring: ring}
	logger := slog.New(slog.NewTextHandler(r.log, nil))
	r.Database = NewDatabase(DatabaseOptions{
		Revisions: from, Reporter: NewReporter(r.to, from, "self", "v1", logger), Ring: ring, Logger: logger, LastGood: path,
	})
	return r
}

// restart is a new process on the same disk.
func (r *replica) restart(t *testing.T) *replica {
	t.Helper()
	return newReplica(t, r.shelf, r.opts.LastGood, r.ring)
}

// following runs test beside a running feed, on a clock of its own.
func following(t *testing.T, test func(t *testing.T, r *replica)) {
	path := filepath.Join(t.TempDir(), "new", "last-good.json") // the folder is made
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(t, &shelf{}, path, newRing(t))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { r.Run(ctx) })
		running.Go(func() { r.opts.Reporter.Run(ctx) })
		synctest.Wait()
		test(t, r)
		cancel()
		running.Wait()
	})
}

// wants fails unless these were applied so far, each once.
func (r *replica) wants(t *testing.T, when string, routes ...string) {
	t.Helper()
	synctest.Wait()
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	if got, want := strings.Join(r.to.applied, " "), strings.Join(routes, " "); got != want {
		t.Errorf("%s: applied %q, want %q", when, got, want)
	}
}

func (r *replica) keeps(t *testing.T, route string) {
	t.Helper()
	_, doc, err := r.kept.read()
	if err != nil || doc.Routes[0].Name != route {
		t.Errorf("on disk: %+v, %v; want %s", doc.Routes, err, route)
	}
}

func TestNewRevisionIsAppliedWhenWoken(t *testing.T) {
	following(t, func(t *testing.T, r *replica) {
		if !r.Filled() {
			t.Error("a database without a revision counts as one that was not asked")
		}
		for i, name := range []string{"a", "b", "c"} {
			r.put(t, name)
			r.Wake()
			r.wants(t, "woken", []string{"a", "b", "c"}[:i+1]...)
			r.keeps(t, name)
		}
		r.Wake()
		r.Wake()
		r.wants(t, "woken for nothing", "a", "b", "c")
	})
}

func TestLostWakeUpIsMadeUpForByPolling(t *testing.T) {
	following(t, func(t *testing.T, r *replica) {
		r.put(t, "a")
		r.wants(t, "not woken")
		time.Sleep(revisionPoll)
		r.wants(t, "after the poll", "a")
		time.Sleep(10 * revisionPoll)
		r.wants(t, "after more", "a")
	})
}

func TestReloadAppliesTheCurrentRevisionAgain(t *testing.T) {
	following(t, func(t *testing.T, r *replica) {
		r.put(t, "a")
		r.Wake()
		synctest.Wait()
		r.Reload()
		r.wants(t, "reloaded", "a", "a")
	})
}

func TestRefusedRevisionLeavesTheLastGoodOneInForce(t *testing.T) {
	for name, refuse := range map[string]func(t *testing.T, r *replica){
		"not valid":     func(_ *testing.T, r *replica) { r.putText([]byte(`{"version":1,"roots":[]}`)) },
		"not JSON":      func(_ *testing.T, r *replica) { r.putText([]byte(`{"version":`)) },
		"not compiled":  func(t *testing.T, r *replica) { r.to.set(errors.New("no such file")); r.put(t, "bad") },
		"of the future": func(_ *testing.T, r *replica) { r.putText([]byte(`{"version":2}`)) },
	} {
		t.Run(name, func(t *testing.T) {
			following(t, func(t *testing.T, r *replica) {
				r.put(t, "good")
				r.Wake()
				synctest.Wait()
				refuse(t, r)
				r.Wake()
				r.wants(t, "refused", "good")
				if _, _, refused := r.to.last(); refused == nil {
					t.Error("the target is not told")
				}
				r.keeps(t, "good")
				time.Sleep(10 * revisionPoll)
				if n := strings.Count(r.log.String(), "gateway document refused, the previous one goes on"); n != 1 {
					t.Errorf("%d lines about it: %s", n, r.log)
				}
				if v := r.opts.Reporter.Serving(); v.Number != 1 || v.Error == "" || v.FailedAt.IsZero() {
					t.Errorf("reported: %+v", v)
				}
				r.to.set(nil)
				r.put(t, "next")
				r.Wake()
				r.wants(t, "mended", "good", "next")
				if v := r.opts.Reporter.Serving(); v.Number != 3 || v.Error != "" || !v.FailedAt.IsZero() {
					t.Errorf("reported: %+v", v)
				}
			})
		})
	}
}

// set makes Apply return err.
func (t *target) set(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = err
}

func TestOutageIsOneLogLineAndNoRefusal(t *testing.T) {
	following(t, func(t *testing.T, r *replica) {
		r.put(t, "a")
		r.Wake()
		synctest.Wait()
		for range 2 {
			r.isAway(true)
			time.Sleep(10 * revisionPoll)
			r.isAway(false)
			time.Sleep(2 * revisionPoll) // at least one poll, whichever timer is first
		}
		if n := strings.Count(r.log.String(), "cannot be read"); n != 2 {
			t.Errorf("%d lines about two outages: %s", n, r.log)
		}
		r.put(t, "b")
		r.Wake()
		r.wants(t, "after the outages", "a", "b")
		if r.to.refusals() != 0 {
			t.Error("an outage is taken for a refused document")
		}
	})
}

// load is the start of a process.
func (r *replica) load(t *testing.T) {
	t.Helper()
	r.Load(t.Context())
}

func TestStartWithoutTheDatabaseServesTheLastGoodDocument(t *testing.T) {
	r := newReplica(t, &shelf{}, filepath.Join(t.TempDir(), "last-good.json"), newRing(t))
	r.put(t, "a")
	r.load(t)
	r.isAway(true)
	again := r.restart(t)
	if err := again.Kept(); err != nil {
		t.Fatal(err)
	}
	again.load(t)
	if !again.to.is("a")() || !again.Filled() {
		t.Errorf("applied %v: %s", again.to.applied, again.log)
	}
	if v := again.opts.Reporter.Serving(); v.Number != 1 {
		t.Errorf("reported as revision %d", v.Number)
	}
	again.isAway(false)
	again.put(t, "b")
	again.update(t.Context())
	if !again.to.is("b")() {
		t.Errorf("after the outage: %v", again.to.applied)
	}
	info, err := os.Stat(again.opts.LastGood)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestStartWithARefusedRevisionServesTheLastGoodDocument(t *testing.T) {
	r := newReplica(t, &shelf{}, filepath.Join(t.TempDir(), "last-good.json"), newRing(t))
	r.put(t, "a")
	r.load(t)
	r.putText([]byte(`{"version":2}`))
	again := r.restart(t)
	again.load(t)
	if name, n, _ := again.to.last(); name != "a" || n != 1 || !again.Filled() {
		t.Errorf("applied %v: %s", again.to.applied, again.log)
	}
	if v := again.opts.Reporter.Serving(); v.Number != 1 {
		t.Errorf("reported as revision %d", v.Number)
	}
}

// A database that answers, and has no revision, is the one to believe: the file is
// of another one, or of a time that is over.
func TestStartOnADatabaseWithoutARevisionServesNothing(t *testing.T) {
	r := newReplica(t, &shelf{}, filepath.Join(t.TempDir(), "last-good.json"), newRing(t))
	r.put(t, "a")
	r.load(t)
	again := newReplica(t, &shelf{}, r.opts.LastGood, r.ring)
	again.load(t)
	if _, n, _ := again.to.last(); n != 0 || !again.Filled() {
		t.Errorf("applied %v", again.to.applied)
	}
}

func TestStartWithNothingAtAllSaysSo(t *testing.T) {
	r := newReplica(t, &shelf{away: true}, filepath.Join(t.TempDir(), "last-good.json"), newRing(t))
	if err := r.Kept(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kept: %v", err)
	}
	r.load(t)
	if r.Filled() || !strings.Contains(r.log.String(), "there is no last good gateway document") {
		t.Errorf("filled %v: %s", r.Filled(), r.log)
	}
}

func TestDamagedLastGoodDocumentIsIgnored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "last-good.json")
	r := newReplica(t, &shelf{}, path, newRing(t))
	r.put(t, "a")
	r.load(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string][]byte{"empty": nil, "something else": []byte("[]\n"), "no document": []byte("{}\n")}
	for cut := 1; cut < len(whole)-2; cut += 7 { // without the last line break it is whole
		damaged[fmt.Sprint("cut to ", cut)] = whole[:cut]
	}
	for _, change := range [][2]string{
		{`"revision":1`, `"revision":2`}, {`http://a`, `http://b`}, {`"mac":"`, `"mac":"00`}, {`"key_id":"`, `"key_id":"0`},
	} {
		text := bytes.Replace(whole, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(text, whole) {
			t.Fatalf("nothing to change at %s", change[0])
		}
		damaged[change[1]] = text
	}
	r.isAway(true)
	for name, text := range damaged {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		again := r.restart(t)
		if again.Kept() == nil {
			t.Errorf("%s: it counts as kept", name)
		}
		again.load(t)
		if _, n, _ := again.to.last(); n != 0 || again.Filled() || !strings.Contains(again.log.String(), "there is no last good gateway document") {
			t.Errorf("%s: applied %v: %s", name, again.to.applied, again.log)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := newReplica(t, r.shelf, path, newRing(t)); again.Kept() == nil {
		t.Error("the file of another installation is taken")
	}
	if err := r.restart(t).Kept(); err != nil {
		t.Errorf("the whole file: %v", err)
	}
}

func TestLastGoodDocumentOutlivesAChangeOfTheMasterKey(t *testing.T) {
	old := seal.NewMasterKey()
	before, err1 := seal.ParseKeyring(old)
	after, err2 := seal.ParseKeyring(seal.NewMasterKey(), old)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "last-good.json")
	r := newReplica(t, &shelf{}, path, before)
	r.put(t, "a")
	r.load(t)
	if err := newReplica(t, r.shelf, path, after).Kept(); err != nil {
		t.Error(err)
	}
}

func TestDiskThatCannotBeWrittenIsALogLine(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a file")
	write(t, folder, "")
	r := newReplica(t, &shelf{}, filepath.Join(folder, "last-good.json"), newRing(t))
	r.put(t, "a")
	r.load(t)
	if !r.to.is("a")() || !strings.Contains(r.log.String(), "could not be kept on disk") {
		t.Errorf("applied %v: %s", r.to.applied, r.log)
	}
}

func TestLeftoversOfKilledProcessesAreRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "last-good.json")
	old, young := path+".1", path+".2"
	write(t, old, "")
	write(t, young, "")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*leftover)); err != nil {
		t.Fatal(err)
	}
	r := newReplica(t, &shelf{}, path, newRing(t))
	r.put(t, "a")
	r.load(t)
	names, err := filepath.Glob(path + "*")
	if err != nil || strings.Join(names, " ") != path+" "+young {
		t.Errorf("in the folder: %v, %v", names, err)
	}
}

// Variables with the folder and the master key for the child of
// TestKillBetweenApplyAndSaveLeavesTheOneBefore.
const (
	killedChild = "FEED_TEST_KILLED"
	killedKey   = "FEED_TEST_KILLED_KEY"
)

// suicide is a target that kills its process when it has applied the document.
type suicide struct{ target }

func (s *suicide) Apply(doc spec.Document) error {
	if err := s.target.Apply(doc); err != nil || doc.Routes[0].Name != "last" {
		return err
	}
	return syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedChild)
	if dir == "" {
		t.Skip("runs as a child of another test only")
	}
	ring, err := seal.ParseKeyring(seal.NewSecret(os.Getenv(killedKey)))
	if err != nil {
		t.Fatal(err)
	}
	from := &shelf{}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	d := NewDatabase(DatabaseOptions{
		Revisions: from, Reporter: NewReporter(&suicide{}, from, "self", "v1", logger), Ring: ring, Logger: logger,
		LastGood: filepath.Join(dir, "last-good.json"),
	})
	for _, name := range []string{"first", "last"} {
		from.put(t, name)
		d.update(t.Context())
	}
	t.Error("the process lives on")
}

func TestKillBetweenApplyAndSaveLeavesTheOneBefore(t *testing.T) {
	dir, key := t.TempDir(), seal.NewMasterKey()
	ring, err := seal.ParseKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledChild$")
	child.Env = append(os.Environ(), killedChild+"="+dir, killedKey+"="+key.Reveal())
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL { //nolint:forcetypeassert // on Unix
		t.Fatalf("%v: %s", err, out)
	}
	r := newReplica(t, &shelf{away: true}, filepath.Join(dir, "last-good.json"), ring)
	r.load(t)
	if !r.to.is("first")() {
		t.Errorf("applied %v: %s", r.to.applied, r.log)
	}
	r.isAway(false)
	r.put(t, "last")
	r.update(t.Context())
	if !r.to.is("last")() {
		t.Errorf("with the database: %v: %s", r.to.applied, r.log)
	}
}

func TestReplicaReportsWhatItServes(t *testing.T) {
	following(t, func(t *testing.T, r *replica) {
		last := func() revision.Serving {
			synctest.Wait()
			all := r.reported()
			if len(all) == 0 {
				t.Fatal("nothing is reported")
			}
			return all[len(all)-1]
		}
		if v := last(); v != (revision.Serving{Replica: "self", Version: "v1"}) {
			t.Errorf("before the first: %+v", v)
		}
		r.put(t, "a")
		r.Wake()
		v := last()
		if v.Number != 1 || len(v.Digest) != 64 || v.AppliedAt.IsZero() {
			t.Errorf("after the first: %+v", v)
		}
		time.Sleep(reportInterval) // a record that was lost comes back
		if again := last(); again != v {
			t.Errorf("said again: %+v", again)
		}
		r.isAway(true)
		r.put(t, "b")
		time.Sleep(10 * reportInterval)
		r.isAway(false)
		time.Sleep(max(reportInterval, revisionPoll))
		if v := last(); v.Number != 2 {
			t.Errorf("after an outage: %+v", v)
		}
		// A file is a source, too.
		doc, err := spec.Parse("", []byte(document("file")))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.opts.Reporter.Apply(doc); err != nil {
			t.Fatal(err)
		}
		if v := last(); v.Number != 0 || v.Digest == "" {
			t.Errorf("from a file: %+v", v)
		}
	})
}
