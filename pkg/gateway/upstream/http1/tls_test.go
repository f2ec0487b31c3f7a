package http1_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/upstream/http1"
)

// certificate is one for 127.0.0.1 that signs itself.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// tlsClient is a client of addr that trusts roots.
func tlsClient(t testing.TB, addr string, roots *x509.CertPool, change func(*http1.Config)) *http1.Client {
	return newClient(t, addr, func(c *http1.Config) {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}}
		c.HandshakeTimeout = 30 * time.Second
		if change != nil {
			change(c)
		}
	})
}

// sealed is the service's end of a connection of TLS 1.3 that can send any record at any
// time, which crypto/tls cannot.
type sealed struct {
	*tls.Conn
	raw  net.Conn
	aead cipher.AEAD
	iv   []byte
	n    uint64 // records that were sent
}

// Types of content (RFC 8446 section 5.1).
const (
	alert       = 21
	handshake   = 22
	application = 23
)

// record encrypts one record (RFC 8446 section 5.2).
func (s *sealed) record(kind byte, payload []byte) []byte {
	inner := append(bytes.Clone(payload), kind)
	header := binary.BigEndian.AppendUint16([]byte{application, 3, 3}, uint16(len(inner)+s.aead.Overhead()))
	nonce := bytes.Clone(s.iv)
	var count [8]byte
	binary.BigEndian.PutUint64(count[:], s.n)
	s.n++
	for i, c := range count {
		nonce[len(nonce)-8+i] ^= c
	}
	return s.aead.Seal(header, nonce, inner, header)
}

// send writes records in one piece.
func (s *sealed) send(records ...[]byte) { _, _ = s.raw.Write(bytes.Join(records, nil)) }

// ticket is a NewSessionTicket (RFC 8446 section 4.6.1).
func ticket() []byte {
	const sized = "\x00\x00\x0e\x10" + "\x00\x00\x00\x01" + "\x01\x00" + "\x00\x20" + "0123456789abcdef0123456789abcdef" + "\x00\x00"
	return append([]byte{4, 0, 0, byte(len(sized))}, sized...)
}

// closeNotify is the alert at the end of a connection.
func closeNotify() []byte { return []byte{1, 0} }

// seal takes the keys of a connection that has just shaken hands out of its log.
func seal(t *testing.T, conn *tls.Conn, raw net.Conn, log string) *sealed {
	if conn.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("not the cipher suite that this test knows")
	}
	_, rest, _ := strings.Cut(log, "SERVER_TRAFFIC_SECRET_0 ")
	fields := strings.Fields(rest)
	secret, err := hex.DecodeString(fields[1])
	if err != nil {
		t.Error(err)
	}
	expand := func(label string, length int) []byte { // RFC 8446 section 7.1
		info := "\x00" + string(rune(length)) + string(rune(len("tls13 "+label))) + "tls13 " + label + "\x00"
		out, err := hkdf.Expand(sha256.New, secret, info, length)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		t.Error(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Error(err)
	}
	return &sealed{Conn: conn, raw: raw, aead: aead, iv: expand("iv", 12)}
}

// sealedService answers each request with what answer sends.
func sealedService(t *testing.T, answer func(s *sealed, n int) bool) (addr string, roots *x509.CertPool, connections *atomic.Int64) {
	t.Helper()
	cert, roots := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int64{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			group.Go(func() {
				defer raw.Close()
				var keys bytes.Buffer
				conn := tls.Server(raw, &tls.Config{
					Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, KeyLogWriter: &keys,
				})
				if err := conn.Handshake(); err != nil {
					return
				}
				s := seal(t, conn, raw, keys.String())
				in := bufio.NewReader(conn)
				for n := 0; ; n++ {
					if _, err := http.ReadRequest(in); err != nil || !answer(s, n) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return l.Addr().String(), roots, connections
}

// What a service says on an idle connection of TLS: tickets leave it as it is, and
// everything else ends it, be it with or after the answer, whole or in part.
func TestIdleConnectionOfTLS(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for name, c := range map[string]struct {
		say   func(*sealed) (with, after [][]byte)
		again bool
	}{
		"nothing":           {func(*sealed) (a, b [][]byte) { return nil, nil }, true},
		"a ticket with it":  {func(s *sealed) (a, b [][]byte) { return [][]byte{s.record(handshake, ticket())}, nil }, true},
		"a ticket after it": {func(s *sealed) (a, b [][]byte) { return nil, [][]byte{s.record(handshake, ticket())} }, true},
		"tickets after it": {func(s *sealed) (a, b [][]byte) {
			return nil, [][]byte{s.record(handshake, ticket()), s.record(handshake, ticket())}
		}, true},
		"a half ticket":         {func(s *sealed) (a, b [][]byte) { return nil, [][]byte{s.record(handshake, ticket())[:20]} }, false},
		"a byte of a record":    {func(s *sealed) (a, b [][]byte) { return nil, [][]byte{s.record(application, []byte(evil))[:1]} }, false},
		"a half answer with it": {func(s *sealed) (a, b [][]byte) { return [][]byte{s.record(application, []byte(evil))[:30]}, nil }, false},
		"an answer with it":     {func(s *sealed) (a, b [][]byte) { return [][]byte{s.record(application, []byte(evil))}, nil }, false},
		"an answer after it":    {func(s *sealed) (a, b [][]byte) { return nil, [][]byte{s.record(application, []byte(evil))} }, false},
		"both after it": {func(s *sealed) (a, b [][]byte) {
			return nil, [][]byte{s.record(handshake, ticket()), s.record(application, []byte(evil))}
		}, false},
		"its end with it":  {func(s *sealed) (a, b [][]byte) { return [][]byte{s.record(alert, closeNotify())}, nil }, false},
		"its end after it": {func(s *sealed) (a, b [][]byte) { return nil, [][]byte{s.record(alert, closeNotify())} }, false},
		"no TLS after it":  {func(*sealed) (a, b [][]byte) { return nil, [][]byte{[]byte(evil)} }, false},
		"new keys that are wanted": {func(s *sealed) (a, b [][]byte) {
			return nil, [][]byte{s.record(handshake, []byte{24, 0, 0, 1, 1})}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			read, said := make(chan struct{}), make(chan struct{})
			addr, roots, connections := sealedService(t, func(s *sealed, _ int) bool {
				answer := s.record(application, []byte(hello))
				if asked.Add(1) > 1 {
					s.send(answer)
					return true
				}
				with, after := c.say(s)
				s.send(append([][]byte{answer}, with...)...)
				<-read
				s.send(after...)
				close(said)
				return true
			})
			client := tlsClient(t, addr, roots, nil)
			for i := range 3 {
				r := request(t, t.Context(), addr, "/")
				r.Method = http.MethodPost // which is not sent again
				resp, err := client.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "hello" {
					t.Fatalf("got %q, %v", got, err)
				}
				_ = resp.Body.Close()
				if i == 0 {
					close(read)
					<-said
				}
			}
			if want := map[bool]int64{true: 1, false: 2}[c.again]; connections.Load() != want {
				t.Errorf("%d connections, want %d", connections.Load(), want)
			}
		})
	}
}

// What lies behind the end of an answer in the same record was deciphered with it, and
// the socket knows nothing of it any more.
func TestNothingIsLeftBehindAnAnswerOverTLS(t *testing.T) {
	body := strings.Repeat("x", 10_000)
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	addr, roots, connections := sealedService(t, func(s *sealed, _ int) bool {
		s.send(s.record(application, []byte(answer+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")))
		return true
	})
	client := tlsClient(t, addr, roots, nil)
	for range 3 {
		resp, err := client.RoundTrip(request(t, t.Context(), addr, "/"))
		if err != nil {
			t.Fatal(err)
		}
		// In reads that are larger than the client's buffer, which they pass by.
		space := make([]byte, 2*len(body))
		n, err := io.ReadFull(resp.Body, space)
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(space[:n]) != body {
			t.Fatalf("got %d bytes, %v", n, err)
		}
		_ = resp.Body.Close()
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections for three answers with something behind them", n)
	}
}

// tlsService answers each request with answer over the standard library's TLS, which
// sends a ticket after the handshake.
func tlsService(t testing.TB, version uint16, answer func(conn net.Conn, r *http.Request) bool) (addr string, roots *x509.CertPool, connections *atomic.Int64) {
	t.Helper()
	cert, roots := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version, MinVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	connections = &atomic.Int64{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			group.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(in)
					if err != nil || !answer(conn, r) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return l.Addr().String(), roots, connections
}

func TestConnectionOfTLSIsUsedAgain(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			addr, roots, connections := tlsService(t, version, func(conn net.Conn, _ *http.Request) bool {
				_, _ = io.WriteString(conn, hello)
				return true
			})
			client := tlsClient(t, addr, roots, nil)
			for range 5 {
				resp, err := client.RoundTrip(request(t, t.Context(), addr, "/"))
				if err != nil {
					t.Fatal(err)
				}
				if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" || resp.TLS == nil || resp.TLS.Version != version {
					t.Errorf("got %q, %v over %v", text, err, resp.TLS)
				}
				_ = resp.Body.Close()
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

func TestServiceThatClosesTLSWhileIdleIsNotAnError(t *testing.T) {
	closed := make(chan struct{}, 1)
	addr, roots, connections := tlsService(t, tls.VersionTLS13, func(conn net.Conn, _ *http.Request) bool {
		_, _ = io.WriteString(conn, hello)
		_ = conn.Close() // with a close_notify
		closed <- struct{}{}
		return false
	})
	client := tlsClient(t, addr, roots, nil)
	for range 3 {
		if got, err := fetch(t, client, addr, "/"); err != nil || got != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
		<-closed
	}
	if n := connections.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

// Bounds and the end of a context hold below TLS, and what they leave in the middle of a
// record is never used again.
func TestBoundsHoldOverTLS(t *testing.T) {
	cause := errors.New("the client is gone")
	for name, c := range map[string]struct {
		text     string
		asker    asker
		canceled bool
		want     error
	}{
		"deadline before the answer": {"", asker{deadline: time.Now().Add(50 * time.Millisecond)}, false, http1.ErrDeadline},
		"silence in the body":        {half, asker{idle: 50 * time.Millisecond}, false, http1.ErrIdle},
		"silence of some slices":     {half, asker{idle: slow}, false, http1.ErrIdle},
		"context before the answer":  {"", asker{}, true, cause},
		"context in the body":        {half, asker{}, true, cause},
	} {
		t.Run(name, func(t *testing.T) {
			addr, roots, _ := tlsService(t, tls.VersionTLS13, func(conn net.Conn, _ *http.Request) bool {
				_, _ = io.WriteString(conn, c.text)
				_, _ = conn.Read(make([]byte, 1))
				return false
			})
			ctx, cancel := context.WithCancelCause(asking(t, &c.asker))
			defer cancel(nil)
			client := tlsClient(t, addr, roots, nil)
			if c.asker.deadline.IsZero() { // a handshake takes its time here
				c.asker.deadline = time.Now().Add(time.Hour)
			}
			if c.canceled {
				defer time.AfterFunc(50*time.Millisecond, func() { cancel(cause) }).Stop()
			}
			resp, err := client.RoundTrip(request(t, ctx, addr, "/"))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestPauseInARecordIsNotItsEnd(t *testing.T) {
	addr, roots, _ := sealedService(t, func(s *sealed, _ int) bool {
		record := s.record(application, []byte(hello))
		s.send(record[:3])
		time.Sleep(slow) // the deadline of the connection is over by then
		s.send(record[3:20])
		time.Sleep(slow)
		s.send(record[20:])
		return true
	})
	if got, err := fetch(t, tlsClient(t, addr, roots, nil), addr, "/"); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHandshakeThatFails(t *testing.T) {
	t.Run("for the certificate", func(t *testing.T) {
		addr, _, _ := tlsService(t, tls.VersionTLS13, func(net.Conn, *http.Request) bool { return false })
		_, other := certificate(t)
		r := post(t, addr, "body", 4)
		_, err := tlsClient(t, addr, other, nil).RoundTrip(r)
		var refused *http1.HandshakeError
		var verification *tls.CertificateVerificationError
		if !errors.As(err, &refused) || !errors.As(err, &verification) {
			t.Errorf("got %v", err)
		}
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "body" {
			t.Errorf("left of the body is %q, %v", body, err)
		}
	})
	t.Run("for its time", func(t *testing.T) {
		_, roots := certificate(t)
		addr := deaf(t)
		_, err := fetch(t, tlsClient(t, addr, roots, func(c *http1.Config) { c.HandshakeTimeout = 50 * time.Millisecond }), addr, "/")
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("for the deadline of the caller", func(t *testing.T) {
		_, roots := certificate(t)
		addr := deaf(t)
		ctx := asking(t, &asker{deadline: time.Now().Add(50 * time.Millisecond)})
		if _, err := tlsClient(t, addr, roots, nil).RoundTrip(request(t, ctx, addr, "/")); !errors.Is(err, http1.ErrDeadline) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("for its context", func(t *testing.T) {
		_, roots := certificate(t)
		addr := deaf(t)
		cause := errors.New("the client is gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer time.AfterFunc(50*time.Millisecond, func() { cancel(cause) }).Stop()
		if _, err := tlsClient(t, addr, roots, nil).RoundTrip(request(t, ctx, addr, "/")); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
	})
}
