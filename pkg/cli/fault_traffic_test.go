package cli_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/app/apptest"
	"github.com/keywarden/keywarden/pkg/faulttest"
	"github.com/keywarden/keywarden/pkg/loadtest"
	"github.com/keywarden/keywarden/pkg/pglocal/pgtest"
	"github.com/keywarden/keywarden/pkg/seal"
	"github.com/keywarden/keywarden/pkg/store/redis/redistest"
)

// REL-09: a Redis that takes two seconds holds up the requests of a moment, and is
// then left alone for a second.
func TestFaultRedisSlow(t *testing.T) {
	wire, url := faulttest.ToURL(t, redistest.Start(t).URL.Reveal())
	file := writeFile(t, t.TempDir()+"/gateway.yaml", `version: 1
routes:
  - name: limited
    match: {path: {exact: /limited}}
    auth: {mode: none}
    rate_limit: [{name: all, by: route, rate: 20000/1s}]
    respond: {status: 200}
`)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+file, "counters.store=redis", "redis.url="+url))
	call := loadtest.Request(http.MethodGet, "/limited", s.Addr, "")
	load := offer(s, 300, call)
	<-time.After(faultSpan(time.Second, 10*time.Second))
	before := load.end(t)
	wire.Set(faulttest.Fault{Delay: 2 * time.Second})
	dialled, began := wire.Dialled(), time.Now()
	load = offer(s, 300, call)
	<-time.After(faultSpan(3*time.Second, 20*time.Second))
	during := load.end(t)
	tries, seconds := wire.Dialled()-dialled, time.Since(began).Seconds()
	// Where each request waited for it, half of them would wait for the time-out.
	if during.Latency.Quantile(0.5) >= 50*time.Millisecond {
		t.Errorf("half of the requests take %v", during.Latency.Quantile(0.5))
	}
	if float64(tries) > 10*seconds+20 {
		t.Errorf("%d connections to a slow Redis in %.0f s", tries, seconds)
	}
	wire.Set(faulttest.Fault{})
	apptest.Eventually(t, "the replicas count together again", func() bool {
		return s.Call(t, http.MethodGet, "/limited", nil).Header.Get("X-RateLimit-Scope") != "replica"
	})
	faulttest.Measured(t, "REL-09", "0 of %d calls failed; before: median %s, 99th percentile %s; meanwhile: median %s, 99th percentile %s, longest %s",
		before.Sent+during.Sent, ms(before.Latency.Quantile(0.5)), ms(before.Latency.Quantile(0.99)),
		ms(during.Latency.Quantile(0.5)), ms(during.Latency.Quantile(0.99)), ms(during.Latency.Max()))
	s.stop()
}

// REL-12: who waits for a service waits no longer than the document says, and a
// service works for nobody who has gone.
func TestFaultServiceStalls(t *testing.T) {
	const bound = 300 * time.Millisecond
	left := make(chan time.Time, 1)
	stalls := func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		select {
		case left <- time.Now():
		default:
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/header", stalls)
	mux.HandleFunc("/forever/header", stalls)
	mux.HandleFunc("/body", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the beginning")
		_ = http.NewResponseController(w).Flush()
		stalls(w, r)
	})
	service := httptest.NewServer(mux)
	t.Cleanup(service.Close)
	file := writeFile(t, t.TempDir()+"/gateway.yaml", fmt.Sprintf(`version: 1
services:
  - {name: bounded, url: %[1]q, response_timeout: %[2]s, idle_timeout: %[2]s}
  - {name: patient, url: %[1]q, response_timeout: 1h, idle_timeout: 1h}
routes:
  - {name: bounded, match: {path: {prefix: /b}}, service: bounded, strip_prefix: /b, auth: {mode: none}}
  - {name: patient, match: {path: {prefix: /p}}, service: patient, strip_prefix: /p, auth: {mode: none}}
`, service.URL, bound))
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+file))

	began := time.Now()
	a := s.Want(t, http.StatusGatewayTimeout, http.MethodGet, "/b/header", nil)
	header := time.Since(began)
	if a.Text(t, "code") != "gateway.upstream_timeout" || header < bound {
		t.Errorf("after %v: %s", header, a.Body)
	}
	<-left

	began = time.Now()
	_, err := s.Try(http.MethodGet, "/b/body", nil)
	body := time.Since(began)
	if err == nil || body < bound {
		t.Errorf("half a body after %v: %v", body, err)
	}
	<-left

	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /p/forever/header HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	metric := func() bool { // the service has it
		_, text, err := get(t.Context(), s.URL+"/metrics")
		return err == nil && strings.Contains(text, `keywarden_target_in_flight{`) && hasLine(text, "keywarden_target_in_flight", `keywarden_service="patient"`, "1")
	}
	apptest.Eventually(t, "the request has reached the service", metric)
	gone := time.Now()
	_ = conn.Close()
	cancelled := (<-left).Sub(gone)
	if faulttest.Long() && cancelled > time.Second {
		t.Errorf("the service hears that its client has gone after %v", cancelled)
	}
	faulttest.Measured(t, "REL-12", "bounds of %v: 504 after %s, half a body cut after %s; a client that goes away is known to the service after %s",
		bound, ms(header), ms(body), ms(cancelled))
	s.stop()
}

// hasLine reports whether a metric with a label has the value.
func hasLine(text, name, label, value string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, label) && strings.HasSuffix(strings.TrimSpace(line), " "+value) {
			return true
		}
	}
	return false
}

// zeros is so many bytes.
type zeros struct{ left int64 }

// Read implements io.Reader.
func (z *zeros) Read(b []byte) (int, error) {
	if z.left <= 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), z.left)
	z.left -= n
	return int(n), nil
}

// REL-13: a body of any size costs the same memory, in either direction.
func TestFaultHugeBodies(t *testing.T) {
	size := int64(256 << 20)
	if faulttest.Long() {
		size = 10 << 30
	}
	const most = 64 << 20
	mux := http.NewServeMux()
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n, err)
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, &zeros{size})
	})
	service := httptest.NewServer(mux)
	t.Cleanup(service.Close)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behindOpen(t, service.URL)))
	s.Want(t, http.StatusOK, http.MethodPost, "/b/upload", "warm")
	before := residentBytes(t, s.cmd.Process.Pid)
	peak, watching, watched := before, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			peak = max(peak, residentBytes(t, s.cmd.Process.Pid))
			select {
			case <-watching:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	exchange := func(method, path string, body io.Reader, length int64) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
		if err != nil {
			return nil, err
		}
		req.ContentLength = length
		return transport.RoundTrip(req)
	}
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() {
		resp, err := exchange(http.MethodPost, "/b/upload", io.NopCloser(&zeros{size}), size)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if text, _ := io.ReadAll(resp.Body); string(text) != fmt.Sprint(size, nil) {
			t.Errorf("the service got %s, want %d bytes", text, size)
		}
	})
	both.Go(func() {
		resp, err := exchange(http.MethodGet, "/b/download", nil, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			t.Errorf("the client got %d bytes, %v; want %d", n, err, size)
		}
	})
	both.Wait()
	took := time.Since(began)
	close(watching)
	<-watched
	grew := peak - before
	if grew > most {
		t.Errorf("resident memory grew by %d bytes, want at most %d", grew, most)
	}
	faulttest.Measured(t, "REL-13", "%d MiB up and %d MiB down at once: resident %.1f MiB before, at most %.1f MiB more; %.0f MiB a second each",
		size>>20, size>>20, float64(before)/(1<<20), float64(grew)/(1<<20), float64(size>>20)/took.Seconds())
	s.stop()
}

// REL-14: a target that swallows everything is found by its checks and kept out;
// meanwhile its requests are made elsewhere.
func TestFaultTargetSwallows(t *testing.T) {
	services := []*httptest.Server{backend(t), backend(t), backend(t)}
	wire := faulttest.New(t, "tcp", services[1].Listener.Addr().String())
	file := writeFile(t, t.TempDir()+"/gateway.yaml", fmt.Sprintf(`version: 1
services:
  - name: b
    targets: [{url: %q}, {url: "http://%s"}, {url: %q}]
    connect_timeout: 1s
    response_timeout: 1s
    retry: {attempts: 3, on: [connect, reset, timeout], budget: 1.0}
    health: {active: {type: http, path: /echo, interval: 1s, timeout: 500ms}}
routes: [{name: b, match: {path: {prefix: /b}}, service: b, strip_prefix: /b, auth: {mode: none}}]
`, services[0].URL, wire.Addr(), services[2].URL))
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+file))
	load := offer(s, 100, loadtest.Request(http.MethodGet, "/b/echo", s.Addr, ""))
	available := func(value string) func() bool {
		return func() bool {
			_, text, err := get(t.Context(), s.URL+"/metrics")
			return err == nil && hasLine(text, "keywarden_target_available", wire.Addr(), value)
		}
	}
	apptest.Eventually(t, "the target is available", available("1"))
	wire.Set(faulttest.Fault{Swallow: true})
	began := time.Now()
	apptest.Eventually(t, "the target is kept out", available("0"))
	out := time.Since(began)
	<-time.After(faultSpan(time.Second, 10*time.Second))
	wire.Set(faulttest.Fault{})
	began = time.Now()
	apptest.Eventually(t, "the target is back", available("1"))
	in := time.Since(began)
	r := load.end(t)
	if faulttest.Long() && out > 10*time.Second {
		t.Errorf("kept out after %v, want 10 s", out)
	}
	faulttest.Measured(t, "REL-14", "0 of %d calls failed; checked each second, kept out after %.1f s and back after %.1f s; 99th percentile over all of it %s",
		r.Sent, out.Seconds(), in.Seconds(), ms(r.Latency.Quantile(0.99)))
	s.stop()
}

// REL-19: where nobody can write the log, requests go on and lines are counted.
func TestFaultLogFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer func() { _ = full.Close() }()
	addr, b := freeAddress(t), backend(t)
	in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behindOpen(t, b.URL), "log.access=true", "server.addr="+addr)
	cmd := exec.Command(binary(t, false), in.args...)
	cmd.Env = append([]string{asProgram + "=1", "PATH=" + os.Getenv("PATH")}, in.env...)
	cmd.Stderr = full
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	s := &server{Program: &apptest.Program{Addr: addr, URL: "http://" + addr}}
	apptest.Eventually(t, "it serves", s.ready)
	load := offer(s, 500, loadtest.Request(http.MethodGet, "/b/echo", addr, ""))
	<-time.After(faultSpan(2*time.Second, 20*time.Second))
	r := load.end(t)
	lost := number(t, s.URL+"/metrics", `(?m)^keywarden_log_lines_lost_total\S* (\S+)$`)
	if lost < uint64(r.Sent)/2 {
		t.Errorf("%d lines are said to be lost of %d requests", lost, r.Sent)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(stopLimit):
		t.Error("it does not end")
	}
	faulttest.Measured(t, "REL-19", "0 of %d calls failed, 99th percentile %s; %d lines lost and counted", r.Sent, ms(r.Latency.Quantile(0.99)), lost)
}

// REL-20: many who send their header a byte now and then hold up nobody else.
func TestFaultSlowClients(t *testing.T) {
	slow := 300
	if faulttest.Long() {
		slow = 10_000
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < uint64(slow)+500 {
		t.Skipf("the limit of open files is %d", files.Cur)
	}
	b, metrics := backend(t), freeAddress(t)
	s := serve(t, serving(pgtest.New(t), seal.NewMasterKey(), append(roomy(behindOpen(t, b.URL), metrics), "server.read_header_timeout=1m")...))
	call := loadtest.Request(http.MethodGet, "/b/echo", s.Addr, "")
	span := faultSpan(2*time.Second, 20*time.Second)
	load := offer(s, 300, call)
	<-time.After(span)
	before := load.end(t)
	conns := make([]net.Conn, slow)
	t.Cleanup(func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	})
	resident := residentBytes(t, s.cmd.Process.Pid)
	for i := range conns {
		conn, err := net.DialTimeout("tcp", s.Addr, 30*time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns[i] = conn
		if _, err := io.WriteString(conn, "GET /b/echo HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
			t.Fatal(err)
		}
	}
	load = offer(s, 300, call)
	for over := time.After(span); ; {
		for _, c := range conns {
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(c, "a"); err != nil {
				t.Fatalf("a slow client was cut off early: %v", err)
			}
		}
		select {
		case <-over:
		case <-time.After(500 * time.Millisecond):
			continue
		}
		break
	}
	each := (int64(residentBytes(t, s.cmd.Process.Pid)) - int64(resident)) / int64(slow)
	during := load.end(t)
	if each > 64<<10 {
		t.Errorf("a slow client takes %d bytes, want at most 64 KiB", each)
	}
	first, then := before.Latency.Quantile(0.99), during.Latency.Quantile(0.99)
	for i, c := range []net.Conn{conns[0], conns[slow-1]} { // they are served when they come to an end
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("slow client %d: %v", i, err)
		} else {
			_ = resp.Body.Close()
		}
	}
	faulttest.Measured(t, "REL-20", "%d slow clients take %.1f KiB each; 99th percentile of the others %s before, %s meanwhile, 0 of %d failed",
		slow, float64(each)/1024, ms(first), ms(then), during.Sent)
	s.stop()
}

// REL-27: a collector of traces that is dead, slow or hostile costs no request
// anything, and no memory.
func TestFaultCollector(t *testing.T) {
	const most = 64 << 20
	endless := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for part := make([]byte, 64<<10); r.Context().Err() == nil; {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	serviceOf := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
		return srv.URL
	}
	b := backend(t)
	run := func(endpoint string) (*loadtest.Result, uint64) {
		in := serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+behindOpen(t, b.URL), "telemetry.trace_sample_ratio=1")
		if endpoint != "" {
			in.env = append(in.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+endpoint, "OTEL_BSP_SCHEDULE_DELAY=20")
		}
		s := serve(t, in)
		load := offer(s, 400, loadtest.Request(http.MethodGet, "/b/echo", s.Addr, ""))
		<-time.After(faultSpan(700*time.Millisecond, 30*time.Second))
		r := load.end(t)
		resident := residentBytes(t, s.cmd.Process.Pid)
		s.signal(syscall.SIGTERM)
		if code := s.wait(); code != 0 {
			t.Errorf("with the collector %q it ends with %d", endpoint, code)
		}
		return r, resident
	}
	without, resident := run("")
	said := []string{fmt.Sprintf("without one %s and %.0f MiB", ms(without.Latency.Quantile(0.99)), float64(resident)/(1<<20))}
	for i, c := range []struct{ name, endpoint string }{
		{"endless", serviceOf(endless)}, {"dripping", serviceOf(drip)},
		{"dead", "http://" + freeAddress(t)}, {"silent", "http://" + faulttest.Blackhole(t)},
	} {
		if i > 0 && !faulttest.Long() { // TestDeadCollectorCostsRequestsNothing has the others
			break
		}
		r, took := run(c.endpoint)
		if took > resident+most {
			t.Errorf("with a collector that is %s, %d bytes are resident, without one %d", c.name, took, resident)
		}
		said = append(said, fmt.Sprintf("%s %s and %.0f MiB", c.name, ms(r.Latency.Quantile(0.99)), float64(took)/(1<<20)))
	}
	faulttest.Measured(t, "REL-27", "0 calls failed; 99th percentile and resident memory: %s", strings.Join(said, ", "))
}

// soakSpan is how long the soak takes: KEYWARDEN_TEST_SOAK, such as 2h.
func soakSpan(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("KEYWARDEN_TEST_SOAK")
	if text == "" {
		return faultSpan(4*time.Second, 5*time.Minute)
	}
	span, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("KEYWARDEN_TEST_SOAK: %v", err)
	}
	return span
}

// REL-28: mixed traffic, documents that change and keys that come and go leave
// nothing behind.
func TestFaultSoak(t *testing.T) {
	span := soakSpan(t)
	metrics := freeAddress(t)
	r := &reloading{t: t, file: t.TempDir() + "/gateway.yaml", services: map[string]*httptest.Server{"a": named(t, "a"), "b": named(t, "b")}}
	b := backend(t)
	document := func(name string) string {
		return strings.Replace(r.document(name), "routes:\n", fmt.Sprintf("  - {name: s, url: %q}\nroutes:\n"+
			"  - {name: s, match: {path: {prefix: /b}}, service: s, strip_prefix: /b}\n", b.URL), 1)
	}
	r.write(document("a"))
	r.server = serve(t, serving(pgtest.New(t), seal.NewMasterKey(), "gateway.file="+r.file, "gateway.watch=false", "server.metrics_addr="+metrics, "keys.max_per_user=1000"))
	r.serves("a")
	u, keys := mint(t, r.server, 8)
	use(t, r.server, "/b/echo", keys)
	requests := append(withKeys(r.server, "/b/echo", keys), withKeys(r.server, "/api/test", keys)...)
	requests = append(requests, loadtest.Request(http.MethodPost, "/b/echo", r.Addr, `{"a":1}`, "X-API-Key: "+keys[0].Secret))
	requests = append(requests, loadtest.Request(http.MethodGet, "/stable", r.Addr, ""))

	churned, reloads := 0, 0
	work := func(until time.Time) *loadtest.Result {
		load := offer(r.server, 150, requests...)
		for time.Now().Before(until) {
			name := []string{"b", "a"}[reloads%2]
			r.write(document(name))
			r.signal(syscall.SIGHUP)
			r.serves(name)
			reloads++
			if churned%50 == 0 { // long before its token ends
				r.SignIn(t, u)
			}
			r.Want(t, http.StatusOK, http.MethodGet, "/b/echo", nil, u.Auth()...)
			key := r.Key(t, u, nil)
			use(t, r.server, "/b/echo", []apptest.Key{key})
			r.Want(t, http.StatusNoContent, http.MethodDelete, "/api-keys/"+key.ID, nil, u.Auth()...)
			apptest.Eventually(t, "the key is refused", func() bool {
				return r.Call(t, http.MethodGet, "/b/echo", nil, key.Auth()...).Status == http.StatusUnauthorized
			})
			churned++
			<-time.After(200 * time.Millisecond)
		}
		return load.end(t)
	}
	began := time.Now()
	sent := work(began.Add(span / 4)).Sent // caches and buffers have their sizes then
	before, from := usageOf(t, r.cmd.Process.Pid, metrics), time.Now()
	sent += work(began.Add(span)).Sent
	const connections, goroutines, someBytes, looks = 70, 140, 4 << 20, 20 // as in SoakReloads
	after := usageOf(t, r.cmd.Process.Pid, metrics)
	grew := func() bool {
		return grown(before.goroutines, after.goroutines, goroutines) || grown(before.files, after.files, connections) ||
			grown(before.resident, after.resident, someBytes)
	}
	for look := 0; look < looks && grew(); look++ {
		<-time.After(100 * time.Millisecond)
		after = usageOf(t, r.cmd.Process.Pid, metrics)
	}
	hours := time.Since(from).Hours()
	slope := (float64(after.resident)/float64(before.resident) - 1) * 100 / hours
	if faulttest.Long() && grew() {
		t.Errorf("it grows: %+v, then %+v", before, after)
	}
	if hours > 1 && slope > 1 {
		t.Errorf("resident memory grows by %.1f %% an hour", slope)
	}
	faulttest.Measured(t, "REL-28", "%v: 0 of %d calls failed under %d reloads and %d keys made and revoked; goroutines %d, then %d; descriptors %d, then %d; resident %.1f MiB, then %.1f MiB",
		span, sent, reloads, churned, before.goroutines, after.goroutines, before.files, after.files, float64(before.resident)/(1<<20), float64(after.resident)/(1<<20))
	r.stop()
}
