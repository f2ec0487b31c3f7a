package etcd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keywarden/keywarden/pkg/gateway/discovery"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/discoverytest"
	"github.com/keywarden/keywarden/pkg/gateway/discovery/etcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "/services/users/"

// server is a real etcd.
type server struct {
	t     *testing.T
	URL   string
	token string
	dir   string
	port  int
	cmd   *exec.Cmd
}

// newServer starts etcd; without its program the test is skipped, where there is
// no CI that promises it.
func newServer(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("etcd is not installed: apt-get install etcd-server")
		}
		t.Skip("etcd is not installed: apt-get install etcd-server")
	}
	s := &server{t: t, dir: t.TempDir(), port: freePort(t)}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", s.port)
	s.start()
	t.Cleanup(s.stop)
	return s
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *server) start() {
	s.t.Helper()
	peer := "http://127.0.0.1:0"
	s.cmd = exec.Command("etcd", "--data-dir", filepath.Join(s.dir, "data"), "--log-level", "error", "--unsafe-no-fsync",
		"--listen-client-urls", s.URL, "--advertise-client-urls", s.URL, "--listen-peer-urls", peer)
	var out bytes.Buffer
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(10 * time.Millisecond) {
		resp, err := client.Get(s.URL + "/health")
		if err == nil {
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if strings.Contains(string(text), `"true"`) {
				return
			}
		}
		if time.Now().After(deadline) {
			s.stop()
			s.t.Fatalf("etcd does not start: %s", out.String())
		}
	}
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// call calls the server's own API; bytes become base64.
func (s *server) call(path string, body map[string]any) map[string]any {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(context.Background(), "POST", s.URL+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.token != "" {
		r.Header.Set("Authorization", s.token)
	}
	client := &http.Client{Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := map[string]any{}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%s: status %d, %v, %v", path, resp.StatusCode, answer, err)
	}
	return answer
}

func (s *server) put(key, value string) {
	s.t.Helper()
	s.call("/v3/kv/put", map[string]any{"key": []byte(key), "value": []byte(value)})
}

func (s *server) delete(key string) {
	s.t.Helper()
	s.call("/v3/kv/deleterange", map[string]any{"key": []byte(key)})
}

func (s *server) config() etcd.Config {
	return etcd.Config{Endpoints: []string{s.URL}, Prefix: prefix, Scheme: "http"}
}

func TestKeysAreFollowed(t *testing.T) {
	s := newServer(t)
	s.put(prefix+"a", "http://10.0.0.1:8081")
	s.put(prefix+"b", "10.0.0.2:8082\n")
	s.put("/services/usersx", "10.9.9.9:1")
	s.put("/services/user", "10.9.9.9:2")
	run := discoverytest.Start(t, etcd.New(s.config()))
	run.Wait(discovery.Found{Host: "10.0.0.1:8081"}, discovery.Found{Host: "10.0.0.2:8082"})
	s.put(prefix+"b", `{"url": "http://users.internal", "weight": 3, "priority": 1, "zone": "b"}`)
	run.Wait(discovery.Found{Host: "10.0.0.1:8081"}, discovery.Found{Host: "users.internal:80", Weight: 3, Priority: 1, Zone: "b"})
	s.put(prefix+"b", `{"Op": 0, "Addr": "10.0.0.3:8083", "Metadata": null}`) // as etcd's naming package writes it
	run.Wait(discovery.Found{Host: "10.0.0.1:8081"}, discovery.Found{Host: "10.0.0.3:8083"})
	s.delete(prefix + "a")
	run.Wait(discovery.Found{Host: "10.0.0.3:8083"})
	s.delete(prefix + "b")
	run.Wait()
}

// A target that registers itself with a lease and dies disappears.
func TestALeaseThatEndsTakesItsTargetAway(t *testing.T) {
	s := newServer(t)
	lease := s.call("/v3/lease/grant", map[string]any{"TTL": 1})["ID"]
	s.call("/v3/kv/put", map[string]any{"key": []byte(prefix + "a"), "value": []byte("10.0.0.1:1"), "lease": lease})
	run := discoverytest.Start(t, etcd.New(s.config()))
	run.Wait(discovery.Found{Host: "10.0.0.1:1"})
	run.Wait()
}

// A watch from a revision that was compacted away is one that reads anew.
func TestACompactedRevisionIsReadAnew(t *testing.T) {
	s := newServer(t)
	s.put(prefix+"a", "10.0.0.1:1")
	var last string
	for i := range 5 {
		s.put(prefix+"b", fmt.Sprintf("10.0.0.2:%d", i+1))
		last = fmt.Sprint(s.call("/v3/kv/put", map[string]any{"key": []byte("/other"), "value": []byte("x")})["header"].(map[string]any)["revision"])
	}
	s.call("/v3/kv/compaction", map[string]any{"revision": last})
	err := etcd.Follow(t.Context(), s.config(), 2)
	if !errors.Is(err, etcd.ErrAgain) {
		t.Fatalf("watching a compacted revision: %v", err)
	}
	// A source does not notice: what it reads is newer.
	run := discoverytest.Start(t, etcd.New(s.config()))
	run.Wait(discovery.Found{Host: "10.0.0.1:1"}, discovery.Found{Host: "10.0.0.2:5"})
}

func TestAServerThatDiesIsAFailureAndTheNextMemberIsAsked(t *testing.T) {
	s := newServer(t)
	s.put(prefix+"a", "10.0.0.1:1")
	c := s.config()
	c.Endpoints = append(c.Endpoints, fmt.Sprintf("http://127.0.0.1:%d", freePort(t)))
	source := etcd.New(c)
	run := discoverytest.Start(t, source)
	run.Wait(discovery.Found{Host: "10.0.0.1:1"})
	s.stop()
	if err := run.Err(); err == nil {
		t.Fatal("the watch goes on")
	}
	if run.Last()[0].Host != "10.0.0.1:1" {
		t.Errorf("published %v", run.Last())
	}
	second := discoverytest.Start(t, source) // of the member that is not there
	if err := second.Err(); err == nil || !strings.Contains(err.Error(), c.Endpoints[1]) {
		t.Errorf("error %v", err)
	}
	s.start()
	discoverytest.Start(t, source).Wait(discovery.Found{Host: "10.0.0.1:1"})
}

func TestAUserIsAuthenticatedFor(t *testing.T) {
	s := newServer(t)
	s.put(prefix+"a", "10.0.0.1:1")
	s.call("/v3/auth/user/add", map[string]any{"name": "root", "password": "root-password"})
	s.call("/v3/auth/user/grant", map[string]any{"user": "root", "role": "root"})
	s.call("/v3/auth/role/add", map[string]any{"name": "reader"})
	s.call("/v3/auth/role/grant", map[string]any{"name": "reader", "perm": map[string]any{
		"permType": "READ", "key": []byte(prefix), "range_end": []byte("/services/users0"),
	}})
	s.call("/v3/auth/user/add", map[string]any{"name": "gateway", "password": "gateway-password"})
	s.call("/v3/auth/user/grant", map[string]any{"user": "gateway", "role": "reader"})
	s.call("/v3/auth/enable", map[string]any{})
	s.token = s.call("/v3/auth/authenticate", map[string]any{"name": "root", "password": "root-password"})["token"].(string)

	file := filepath.Join(t.TempDir(), "password")
	write := func(password string) {
		if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := s.config()
	if err := discoverytest.Start(t, etcd.New(c)).Err(); err == nil {
		t.Error("it was answered without a user")
	}
	c.Username, c.PasswordFile = "gateway", file
	if err := discoverytest.Start(t, etcd.New(c)).Err(); err == nil {
		t.Error("it goes on without the file")
	}
	write("wrong-password")
	if err := discoverytest.Start(t, etcd.New(c)).Err(); err == nil || strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("with a wrong password: %v", err)
	}
	write("gateway-password")
	run := discoverytest.Start(t, etcd.New(c))
	run.Wait(discovery.Found{Host: "10.0.0.1:1"})
	s.put(prefix+"a", "10.0.0.2:1")
	run.Wait(discovery.Found{Host: "10.0.0.2:1"})
	c.Prefix = "/services/secret/"
	if err := discoverytest.Start(t, etcd.New(c)).Err(); err == nil {
		t.Error("it reads what its user may not")
	}
}

func TestAnAnswerThatSaysNothingIsNoAnswer(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "<html>", "nothing": "{}", "no revision": `{"kvs": []}`, "another type": `{"header": {"revision": "x"}}`,
		"too many": `{"header": {"revision": "1"}, "more": true}`, "cut off": `{"header": {"revi`,
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
			defer s.Close()
			run := discoverytest.Start(t, etcd.New(etcd.Config{Endpoints: []string{s.URL}, Prefix: prefix, Scheme: "http"}))
			if err := run.Err(); err == nil || run.Answers() != 0 {
				t.Errorf("error %v after %d answers", err, run.Answers())
			}
		})
	}
}

func TestValues(t *testing.T) {
	for value, want := range map[string]discovery.Found{
		"10.0.0.1:80":              {Host: "10.0.0.1:80"},
		"http://[fd00::1]":         {Host: "[fd00::1]:80"},
		"http://[fd00::1]:8080/":   {Host: "[fd00::1]:8080"},
		`{"addr": "h:1"}`:          {Host: "h:1"},
		`{"url": "http://h:1"}`:    {Host: "h:1"},
		`{"url":"h:1","weight":7}`: {Host: "h:1", Weight: 7},
	} {
		if got := etcd.Parse(value, "http"); got != want {
			t.Errorf("%s: %+v, want %+v", value, got, want)
		}
	}
	if got := etcd.Parse("https://h", "https"); got.Host != "h:443" {
		t.Errorf("got %+v", got)
	}
	for _, value := range []string{"https://h:1", "ftp://h", `{"url": 1}`, "{", `{"weight": "x"}`} {
		if got := etcd.Parse(value, "http"); got.Err == nil {
			t.Errorf("%s became %+v", value, got)
		}
	}
}

func TestAPrefixEndsWhereItShould(t *testing.T) {
	for p, want := range map[string]string{"/a/": "/a0", "a\xff": "b", "\xff\xff": "\x00", "é": "\xc3\xaa"} {
		if got := etcd.RangeEnd(p); got != want {
			t.Errorf("%q ends before %q, want %q", p, got, want)
		}
	}
}

// FuzzMessage: whatever a member streams or keeps, the source does not panic.
func FuzzMessage(f *testing.F) {
	f.Add(`{"result":{"header":{"revision":"7"},"events":[{"kv":{"key":"YQ==","value":"aDox"}}]}}`)
	f.Add(`{"result":{"events":[{"type":"DELETE","kv":{"key":"YQ=="}}]}}`)
	f.Add(`{"result":{"canceled":true,"compact_revision":"9"}}`)
	f.Add(`{"error":{"grpc_code":14,"message":"no leader"}}`)
	f.Fuzz(func(t *testing.T, line string) {
		found, err := etcd.Message([]byte(line))
		if err != nil && found != nil {
			t.Errorf("%v with error %v", found, err)
		}
	})
}
