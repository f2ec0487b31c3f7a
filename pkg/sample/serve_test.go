package sample

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// local is a listener on a free port.
func local(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// get makes a GET request on a connection of its own.
func get(t *testing.T, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// TestServeFinishesRequestsAndEndsStreams stops a server that has an ordinary
// request and an event stream under way.
func TestServeFinishesRequestsAndEndsStreams(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.Handle("/", Users(quiet()))
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		_, _ = io.WriteString(w, "finished")
	})
	listener := local(t)
	base := "http://" + listener.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, listener, mux, quiet()) }()

	stream := get(t, base+"/users/events")
	lines := bufio.NewReader(stream.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "id: 1\n" {
		t.Fatalf("the stream begins with %q, %v", line, err)
	}
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get(base + "/slow")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-began
	stop()
	if rest, err := io.ReadAll(lines); err != nil { // ends although 59 events are due
		t.Errorf("the stream was cut (%v) after %q", err, rest)
	}
	select {
	case err := <-ended:
		t.Fatalf("the server ended (%v) with a request under way", err)
	default:
	}
	close(finish)
	if got := <-answered; got != "finished" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestServeReportsABrokenListener(t *testing.T) {
	listener := local(t)
	_ = listener.Close()
	if err := Serve(t.Context(), listener, http.NotFoundHandler(), quiet()); err == nil {
		t.Error("no error from a closed listener")
	}
}

// env is an environment for Run.
func env(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func TestRunServesWhereItIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		vars map[string]string
	}{
		"flag":      {args: []string{"--addr", "127.0.0.1:0"}},
		"variable":  {vars: map[string]string{"ADDR": "127.0.0.1:0"}},
		"flag wins": {args: []string{"--addr=127.0.0.1:0"}, vars: map[string]string{"ADDR": "nonsense"}},
		"default":   {},
	} {
		ctx, stop := context.WithCancel(t.Context())
		logs, logWriter := io.Pipe()
		code := make(chan int, 1)
		go func() {
			command := Command{Name: "usersvc", Addr: "127.0.0.1:0", Handler: Users}
			code <- command.Run(ctx, c.args, env(c.vars), logWriter)
			_ = logWriter.Close()
		}()
		lines := bufio.NewReader(logs)
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, `"serving"`) || !strings.Contains(line, `"service":"usersvc"`) {
			t.Fatalf("%s: first line %q, %v", name, line, err)
		}
		_, rest, _ := strings.Cut(line, `"addr":"`)
		addr, _, _ := strings.Cut(rest, `"`)
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, lines)
		}()
		if resp := get(t, "http://"+addr+"/health"); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: health answers %d", name, resp.StatusCode)
		}
		if code := (Command{Name: "usersvc"}).Run(ctx, []string{"--addr", addr, "--healthcheck"}, env(nil), io.Discard); code != 0 {
			t.Errorf("%s: the health check ends with %d while the service runs", name, code)
		}
		stop()
		if got := <-code; got != 0 {
			t.Errorf("%s: exit code %d, want 0", name, got)
		}
		<-drained
	}
}

func TestRunRefusesWhatItCannotDo(t *testing.T) {
	busy := local(t)
	defer func() { _ = busy.Close() }()
	gone := local(t)
	_ = gone.Close()
	for name, c := range map[string]struct {
		args []string
		code int
		text string
	}{
		"help":          {[]string{"--help"}, 0, "env ADDR"},
		"unknown flag":  {[]string{"--port", "1"}, 2, "-port"},
		"argument":      {[]string{"serve"}, 2, "takes no arguments"},
		"address taken": {[]string{"--addr", busy.Addr().String()}, 1, "address already in use"},
		"bad address":   {[]string{"--addr", "nonsense"}, 1, "cannot listen"},
		"not healthy":   {[]string{"--addr", gone.Addr().String(), "--healthcheck"}, 1, "connection refused"},
		"no port":       {[]string{"--addr", "nonsense", "--healthcheck"}, 1, "missing port"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var out bytes.Buffer
		command := Command{Name: "usersvc", Addr: "127.0.0.1:0", Handler: Users}
		if code := command.Run(ctx, c.args, env(nil), &out); code != c.code || !strings.Contains(out.String(), c.text) {
			t.Errorf("%s: exit code %d, output %q, want %d and %q", name, code, &out, c.code, c.text)
		}
		cancel()
	}
}
