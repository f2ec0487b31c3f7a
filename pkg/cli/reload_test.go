package cli_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
)

// named is a service that answers with its name.
func named(tb testing.TB, name string) *httptest.Server {
	tb.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, name) }))
	tb.Cleanup(srv.Close)
	return srv
}

// reloading is a server whose document changes.
type reloading struct {
	*server
	t        *testing.T
	file     string
	services map[string]*httptest.Server
}

func startReloading(t *testing.T, watch bool) *reloading {
	t.Helper()
	r := &reloading{t: t, file: filepath.Join(t.TempDir(), "gateway.yaml"), services: map[string]*httptest.Server{"a": named(t, "a"), "b": named(t, "b")}}
	r.write(r.document("a"))
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+r.file, fmt.Sprintf("gateway.watch=%t", watch))
	in.race = true
	r.server = serve(t, in)
	r.serves("a")
	return r
}

// document sends /stable to service a and /moved to the named one; whichever is
// not named has no other route.
func (r *reloading) document(moved string) string {
	return fmt.Sprintf(`version: 1
services:
  - {name: a, url: %q}
  - {name: b, url: %q}
routes:
  - {name: stable, match: {path: {prefix: /stable}}, service: a, auth: {mode: none}}
  - {name: moved-to-%s, match: {path: {prefix: /moved}}, service: %s, auth: {mode: none}}
`, r.services["a"].URL, r.services["b"].URL, moved, moved)
}

func (r *reloading) write(text string) {
	r.t.Helper()
	writeFile(r.t, r.file, text)
}

// moved is what the route that moves answers.
func (r *reloading) moved() string {
	r.t.Helper()
	return string(r.Want(r.t, http.StatusOK, http.MethodGet, "/moved", nil).Body)
}

func (r *reloading) serves(name string) {
	r.t.Helper()
	apptest.Eventually(r.t, "the route leads to "+name, func() bool { return r.moved() == name })
}

func TestHangupAppliesAValidDocument(t *testing.T) {
	r := startReloading(t, false)
	r.write(r.document("b"))
	if got := r.moved(); got != "a" {
		t.Errorf("before the signal: %s", got)
	}
	r.signal(syscall.SIGHUP)
	r.serves("b")
	r.stop()
}

func TestChangedFileIsAppliedByItself(t *testing.T) {
	r := startReloading(t, true)
	for _, name := range []string{"b", "a", "b"} {
		r.write(r.document(name))
		r.serves(name)
	}
}

func TestInvalidDocumentIsReportedAndTheOldOneGoesOn(t *testing.T) {
	for _, watch := range []bool{false, true} {
		t.Run(fmt.Sprintf("watch %t", watch), func(t *testing.T) {
			r := startReloading(t, watch)
			refused := func(text string, want ...string) {
				t.Helper()
				r.write(text)
				if !watch {
					r.signal(syscall.SIGHUP)
				}
				record := r.logged("gateway document refused, the previous one goes on", func(record map[string]any) bool {
					return containsAll(fmt.Sprint(record["problems"]), want)
				})
				if record["level"] != "ERROR" {
					t.Errorf("level %v", record["level"])
				}
				if got := r.moved(); got != "a" {
					t.Errorf("after a document that is not valid: %s", got)
				}
			}
			// The second of two routes is wrong: the first, which is right, must not be
			// applied either.
			half := strings.Replace(r.document("b"), "routes:\n", "routes:\n  - {name: new, match: {path: {prefix: /new}}, service: nobody}\n", 1)
			refused(half, r.file+":6:", "nobody")
			r.Want(t, http.StatusNotFound, http.MethodGet, "/new", nil)
			refused(strings.Replace(r.document("b"), "version: 1", "verson: 1", 1), r.file+":1:", "verson", "version")
			refused("version: [1\n", r.file)
			r.write(r.document("b"))
			if !watch {
				r.signal(syscall.SIGHUP)
			}
			r.serves("b")
			r.stop()
		})
	}
}

func containsAll(text string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

func TestReloadsDropNothingUnderLoad(t *testing.T) {
	const reloads, each = 200, 2
	r := startReloading(t, false)
	key := r.Key(t, r.User(t), nil)
	var over atomic.Bool
	kinds := []struct{ header, path string }{{"", "/stable"}, {"", "/moved"}, {"\r\nX-API-Key: " + key.Secret, "/api/test"}, {"\r\nConnection: close", "/moved"}}
	var clients []*client
	var load sync.WaitGroup
	for _, kind := range kinds {
		for range each {
			c := &client{addr: r.Addr, header: kind.header, stopping: &over}
			clients = append(clients, c)
			load.Go(func() { c.work([]string{request("GET", kind.path, "")}) })
		}
	}
	for i := range reloads {
		name := []string{"b", "a"}[i%2]
		r.write(r.document(name))
		r.signal(syscall.SIGHUP)
		r.serves(name)
	}
	over.Store(true)
	r.stop()
	load.Wait()
	done := 0
	for _, c := range clients {
		done += c.done
		for _, fail := range c.fails {
			t.Errorf("a request failed: %s", fail)
		}
	}
	if done < reloads {
		t.Errorf("only %d requests: that was no load", done)
	}
	t.Logf("%d reloads under %d requests of %d clients", reloads, done, len(clients))
}
