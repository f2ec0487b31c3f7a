package interoptest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// cases are those of gRPC's interop-test-descriptions.md that need neither
// credentials nor compression. A case that fails ends the process with a line
// that says what differed: so the suite is written.
var cases = []struct {
	name string
	run  func(ctx context.Context, conn *grpc.ClientConn)
}{
	{"empty_unary", service(interop.DoEmptyUnaryCall)},
	{"large_unary", service(interop.DoLargeUnaryCall)},
	{"client_streaming", service(interop.DoClientStreaming)},
	{"server_streaming", service(interop.DoServerStreaming)},
	{"ping_pong", service(interop.DoPingPong)},
	{"empty_stream", service(interop.DoEmptyStream)},
	{"timeout_on_sleeping_server", service(interop.DoTimeoutOnSleepingServer)},
	{"cancel_after_begin", service(cancelAfterBegin)},
	{"cancel_after_first_response", service(interop.DoCancelAfterFirstResponse)},
	{"custom_metadata", service(interop.DoCustomMetadata)},
	{"status_code_and_message", service(interop.DoStatusCodeAndMessage)},
	{"special_status_message", service(interop.DoSpecialStatusMessage)},
	{"unimplemented_method", interop.DoUnimplementedMethod},
	{"unimplemented_service", func(ctx context.Context, conn *grpc.ClientConn) {
		interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	}},
}

// cancelAfterBegin is interop.DoCancelAfterBegin, but that it does not end the stream
// after it has cancelled it: a fast answer to that end would be right, too.
func cancelAfterBegin(ctx context.Context, client testgrpc.TestServiceClient, options ...grpc.CallOption) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.StreamingInputCall(ctx, options...)
	if err != nil {
		panic(fmt.Sprintf("beginning the stream: %v", err))
	}
	cancel()
	if err := stream.RecvMsg(new(testgrpc.StreamingInputCallResponse)); status.Code(err) != codes.Canceled {
		panic(fmt.Sprintf("a cancelled stream: %v", err))
	}
}

func service(run func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn) {
	return func(ctx context.Context, conn *grpc.ClientConn) { run(ctx, testgrpc.NewTestServiceClient(conn)) }
}

// grpcServer is gRPC's own interop server.
func grpcServer(t *testing.T, options ...grpc.ServerOption) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func grpcClient(t *testing.T, addr string, c credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// trusting trusts the certificate of a test's server.
func trusting(srv *httptest.Server) credentials.TransportCredentials {
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})
}

func runCases(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			c.run(ctx, conn)
		})
	}
}

const grpcDocument = `version: 1
services: [{name: s, url: %q%s}]
routes: [{name: all, match: {path: {prefix: /}}, service: s, auth: {mode: none}}]
`

func TestGRPCInteropEqualsThatWithoutAGateway(t *testing.T) {
	t.Run("direct", func(t *testing.T) {
		addr := grpcServer(t)
		runCases(t, grpcClient(t, addr, insecure.NewCredentials()))
	})
	t.Run("to a service without TLS", func(t *testing.T) {
		addr := grpcServer(t)
		srv := front(t, fmt.Sprintf(grpcDocument, "http://"+addr, ", protocol: h2c"), true)
		runCases(t, grpcClient(t, srv.Listener.Addr().String(), trusting(srv)))
	})
	t.Run("to a service with TLS", func(t *testing.T) {
		certificate, file := selfSigned(t)
		addr := grpcServer(t, grpc.Creds(credentials.NewServerTLSFromCert(&certificate)))
		srv := front(t, fmt.Sprintf(grpcDocument, "https://"+addr, ", tls: {ca_file: "+file+"}"), true)
		runCases(t, grpcClient(t, srv.Listener.Addr().String(), trusting(srv)))
	})
}

// TestGRPCServiceIsToldThatTrailersAreTaken is about servers stricter than Go's:
// gRPC over HTTP/2 requires the field, and those built on gRPC's C core refuse
// calls without it.
func TestGRPCServiceIsToldThatTrailersAreTaken(t *testing.T) {
	arrived := make(chan http.Header, 1)
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.Header.Clone()
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "5")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "as told")
	}))
	service.Config.Protocols = new(http.Protocols)
	service.Config.Protocols.SetUnencryptedHTTP2(true)
	service.Start()
	defer service.Close()
	srv := front(t, fmt.Sprintf(grpcDocument, service.URL, ", protocol: h2c"), true)
	conn := grpcClient(t, srv.Listener.Addr().String(), trusting(srv))
	_, err := testgrpc.NewTestServiceClient(conn).EmptyCall(t.Context(), &testgrpc.Empty{})
	if got := status.Convert(err); got.Code() != 5 || got.Message() != "as told" {
		t.Errorf("status %v", got)
	}
	if got := (<-arrived).Get("Te"); got != "trailers" {
		t.Errorf("TE is %q", got)
	}
}

// selfSigned is the certificate that net/http/httptest has for 127.0.0.1, and a
// file with it as an authority.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.StartTLS()
	defer srv.Close()
	var text strings.Builder
	if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return srv.TLS.Certificates[0], file
}
