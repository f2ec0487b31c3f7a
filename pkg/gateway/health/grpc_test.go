package health_test

import (
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/keywarden/keywarden/pkg/gateway/balance"
	"github.com/keywarden/keywarden/pkg/gateway/health"
)

// grpcServer is a server of grpc-go with its own health service.
func grpcServer(t *testing.T, o ...grpc.ServerOption) (*grpchealth.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, states := grpc.NewServer(o...), grpchealth.NewServer()
	grpc_health_v1.RegisterHealthServer(s, states)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return states, l.Addr().String()
}

// overHTTP2 is a target that is spoken to by HTTP/2 alone.
func overHTTP2(t *testing.T, address string, transport *http.Transport) health.Checked {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP2(true)
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return health.Checked{State: balance.NewState(address), URL: u, Prober: transport}
}

func start(t *testing.T, service string, target health.Checked) {
	t.Helper()
	config := active(health.GRPC)
	config.Service = service
	c := health.Start(config, []health.Checked{target}, slog.New(slog.DiscardHandler), time.Now)
	t.Cleanup(c.Stop)
}

func TestGRPCCheckFollowsTheHealthService(t *testing.T) {
	states, address := grpcServer(t)
	states.SetServingStatus("users.v1.Users", grpc_health_v1.HealthCheckResponse_SERVING)
	whole, one := overHTTP2(t, "http://"+address, &http.Transport{}), overHTTP2(t, "http://"+address, &http.Transport{})
	unknown := overHTTP2(t, "http://"+address, &http.Transport{})
	start(t, "", whole)
	start(t, "users.v1.Users", one)
	start(t, "nobody.v1.Knows", unknown)
	eventually(t, "a service that is not known is down", unknown.State.Down)
	if whole.State.Down() || one.State.Down() {
		t.Fatal("what serves is down")
	}
	states.SetServingStatus("users.v1.Users", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	eventually(t, "the service is down", one.State.Down)
	if whole.State.Down() {
		t.Error("the server is down with one of its services")
	}
	states.Shutdown()
	eventually(t, "the server is down", whole.State.Down)
	states.Resume()
	eventually(t, "both are back", func() bool { return !whole.State.Down() && !one.State.Down() })
}

func TestGRPCCheckSpeaksTLS(t *testing.T) {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	_, address := grpcServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&certificate.TLS.Certificates[0])))
	transport := certificate.Client().Transport.(*http.Transport).Clone()
	target := overHTTP2(t, "https://"+address, transport)
	target.State.SetDown(true, time.Now())
	start(t, "", target)
	eventually(t, "it is well", func() bool { return !target.State.Down() })
}

// Anything but the one answer that says SERVING is a failure.
func TestGRPCCheckTrustsNoOtherAnswer(t *testing.T) {
	const kind = "application/grpc"
	serving := []byte{0, 0, 0, 0, 2, 8, 1}
	for name, answer := range map[string]struct {
		status  int
		kind    string
		body    []byte
		trailer string
	}{
		"HTML":              {200, "text/html", serving, "0"},
		"status 500":        {500, kind, serving, "0"},
		"no gRPC status":    {200, kind, serving, ""},
		"unavailable":       {200, kind, serving, "14"},
		"nothing":           {200, kind, nil, "0"},
		"unknown":           {200, kind, []byte{0, 0, 0, 0, 0}, "0"},
		"not serving":       {200, kind, []byte{0, 0, 0, 0, 2, 8, 2}, "0"},
		"compressed":        {200, kind, []byte{1, 0, 0, 0, 2, 8, 1}, "0"},
		"wrong length":      {200, kind, []byte{0, 0, 0, 0, 9, 8, 1}, "0"},
		"two messages":      {200, kind, append(serving, serving...), "0"},
		"broken message":    {200, kind, []byte{0, 0, 0, 0, 2, 8, 0x80}, "0"},
		"the field as text": {200, kind, []byte{0, 0, 0, 0, 3, 10, 1, 1}, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", answer.kind)
				w.Header().Set("Trailer", "Grpc-Status")
				w.WriteHeader(answer.status)
				_, _ = w.Write(answer.body)
				if answer.trailer != "" {
					w.Header().Set("Grpc-Status", answer.trailer)
				}
			}))
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
			defer s.Close()
			target := overHTTP2(t, s.URL, &http.Transport{})
			defer target.Prober.(*http.Transport).CloseIdleConnections()
			start(t, "", target)
			eventually(t, "it is down", target.State.Down)
		})
	}
}

// What is known of targets that stay is kept, and those that go are left alone.
func TestFollowingOtherTargetsKeepsWhatIsKnown(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer s.Close()
	one, two := checked(t, s.URL), checked(t, s.URL)
	c := health.Start(active(health.HTTP), []health.Checked{one}, slog.New(slog.DiscardHandler), time.Now)
	defer c.Stop()
	eventually(t, "the first is down", one.State.Down)
	c.Follow([]health.Checked{one, two})
	eventually(t, "the second is down", two.State.Down)
	if !one.State.Down() {
		t.Error("the first is forgotten")
	}
	c.Follow([]health.Checked{two})
	one.State.SetDown(false, time.Now())
	c.Follow([]health.Checked{two})
	if one.State.Down() {
		t.Error("a target that has gone is still checked")
	}
}
