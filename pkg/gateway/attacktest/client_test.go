package attacktest

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// pieces is a source that ends after its last piece.
type pieces struct{ rest [][]byte }

func (p *pieces) fill(buf []byte) ([]byte, bool) {
	if len(p.rest) == 0 {
		return buf, false
	}
	buf = append(buf, p.rest[0]...)
	p.rest = p.rest[1:]
	return buf, true
}

func (p *pieces) lingered() bool { return false }

// inOnePiece reads responses from text.
func inOnePiece(text string) []Response {
	return readResponses(&pieces{rest: [][]byte{[]byte(text)}}, 1)
}

func TestReadResponsesUnderstandsEachFraming(t *testing.T) {
	for name, c := range map[string]struct {
		wire string
		want []Response
	}{
		"nothing":          {"", nil},
		"not HTTP":         {"SSH-2.0-x\r\n\r\n", nil},
		"HTTP/2":           {"HTTP/2 200 OK\r\n\r\n", nil},
		"half a head":      {"HTTP/1.1 200 OK\r\nA: b\r\n", nil},
		"length":           {"HTTP/1.1 200 OK\r\nA:  b \r\ncontent-length: 3\r\n\r\nabc", []Response{{200, []Field{{"A", "b"}, {"content-length", "3"}}, "abc"}}},
		"length cut short": {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", []Response{{200, []Field{{"Content-Length", "9"}}, "abc"}}},
		"no length":        {"HTTP/1.0 200 OK\r\n\r\nabc\r\n\r\nd", []Response{{200, nil, "abc\r\n\r\nd"}}},
		"no content":       {"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", []Response{{204, []Field{{"Content-Length", "9"}}, ""}}},
		"chunks": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\nHTTP/1.1 304 N\r\n\r\n",
			[]Response{{200, []Field{{"Transfer-Encoding", "chunked"}}, "abcde"}, {304, nil, ""}}},
		"chunk cut short": {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", []Response{{200, []Field{{"Transfer-Encoding", "chunked"}}, "abc"}}},
		"bad chunk size":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc", []Response{{200, []Field{{"Transfer-Encoding", "chunked"}}, ""}}},
		"interim":         {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", []Response{{100, nil, ""}, {200, []Field{{"Content-Length", "0"}}, ""}}},
		"upgrade":         {"HTTP/1.1 101 S\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", []Response{{101, nil, ""}}},
		"pipeline": {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 401 U\r\nContent-Length: 1\r\n\r\nb",
			[]Response{{200, []Field{{"Content-Length", "1"}}, "a"}, {401, []Field{{"Content-Length", "1"}}, "b"}}},
	} {
		if diff := cmp.Diff(c.want, inOnePiece(c.wire)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestReadResponsesDoesNotDependOnPackets holds that how the bytes arrive never
// changes what is read.
func TestReadResponsesDoesNotDependOnPackets(t *testing.T) {
	wires := []string{
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nb\r\n01234567890\r\n0\r\nT: 1\r\n\r\nHTTP/1.1 401 U\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\n\r\nuntil the end\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\ncut",
	}
	rapid.Check(t, func(t *rapid.T) {
		wire := rapid.SampledFrom(wires).Draw(t, "wire")
		src := &pieces{}
		for rest := wire; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			src.rest = append(src.rest, []byte(rest[:n]))
			rest = rest[n:]
		}
		if diff := cmp.Diff(inOnePiece(wire), readResponses(src, 1)); diff != "" {
			t.Fatalf("whole and in pieces (-want +got):\n%s", diff)
		}
	})
}

func FuzzReadResponses(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), 7)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, wire []byte, cut int) {
		cut = min(max(cut, 0), len(wire))
		got := readResponses(&pieces{rest: [][]byte{wire[:cut], wire[cut:]}}, 1)
		if diff := cmp.Diff(inOnePiece(string(wire)), got); diff != "" {
			t.Fatalf("whole and cut at %d (-want +got):\n%s", cut, diff)
		}
		total := 0
		for _, r := range got {
			total += len(r.Body)
		}
		if total > len(wire) {
			t.Fatalf("%d bytes of body from %d bytes", total, len(wire))
		}
	})
}

// gateway accepts one connection and hands it to serve, closing it afterwards.
func gateway(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		serve(conn)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestSendRawReadsAnAnswerGivenEarly(t *testing.T) {
	addr := gateway(t, func(c net.Conn) {
		_, _ = io.ReadFull(c, make([]byte, 10))
		_, _ = io.WriteString(c, "HTTP/1.1 431 Too Large\r\nContent-Length: 0\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	ex, err := sendRaw(t.Context(), addr, strings.Repeat("a", 8<<20), nil, 1, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if len(ex.responses) != 1 || ex.responses[0].Status != 431 || !ex.closed {
		t.Errorf("got %+v", ex)
	}
}

func TestSendRawStopsSendingWhenTheGatewayCloses(t *testing.T) {
	addr := gateway(t, func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)) })
	never := &pace{size: 1, pause: time.Hour}
	ex, err := sendRaw(t.Context(), addr, "GET", never, 1, time.Minute)
	if err != nil || len(ex.responses) != 0 || !ex.closed {
		t.Errorf("got %+v, %v, want a closed connection without a response", ex, err)
	}
}

func TestSendRawSendsAtThePaceGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		start := time.Now()
		go func() {
			defer func() { _ = client.Close() }()
			send(t.Context(), client, "abcde", &pace{size: 2, pause: time.Second})
		}()
		var got bytes.Buffer
		var at []time.Duration
		piece := make([]byte, 16)
		for {
			n, err := server.Read(piece)
			if err != nil {
				break
			}
			got.Write(piece[:n])
			at = append(at, time.Since(start))
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second}; got.String() != "abcde" || !cmp.Equal(at, want) {
			t.Errorf("got %q at %v, want abcde at %v", got.String(), at, want)
		}
	})
}

// exchangeOver runs the reading half of an exchange on a fake clock: everything
// has been sent, and serve is the gateway.
func exchangeOver(t *testing.T, want int, timeout time.Duration, serve func(net.Conn)) (responses []Response, closed bool, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer func() { _ = client.Close() }()
		go serve(server)
		sent := make(chan struct{})
		close(sent)
		start := time.Now()
		src := &connSource{conn: client, sent: sent, timeout: timeout}
		responses = readResponses(src, want)
		closed, took = src.closed, time.Since(start)
	})
	return responses, closed, took
}

func TestReaderGivesUpAfterTheTimeout(t *testing.T) {
	responses, closed, took := exchangeOver(t, 1, 2*time.Second, func(net.Conn) {})
	if len(responses) != 0 || closed || took < 2*time.Second || took > 3*time.Second {
		t.Errorf("got %v, closed %t after %v, want silence for 2 s", responses, closed, took)
	}
}

func TestReaderWatchesABriefMomentForOneMoreResponse(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	responses, closed, took := exchangeOver(t, 1, 10*time.Second, func(c net.Conn) { _, _ = io.WriteString(c, ok) })
	if len(responses) != 1 || closed || took > time.Second {
		t.Errorf("got %v, closed %t after %v, want one response within a second", responses, closed, took)
	}
	responses, _, _ = exchangeOver(t, 1, 10*time.Second, func(c net.Conn) {
		_, _ = io.WriteString(c, ok)
		time.Sleep(linger / 2)
		_, _ = io.WriteString(c, ok)
	})
	if len(responses) != 2 {
		t.Errorf("got %d responses, want the smuggled one too", len(responses))
	}
}

func TestReaderWaitsForAllThatAreWanted(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	responses, closed, _ := exchangeOver(t, 2, 10*time.Second, func(c net.Conn) {
		_, _ = io.WriteString(c, ok)
		time.Sleep(5 * time.Second)
		_, _ = io.WriteString(c, ok)
		_ = c.Close()
	})
	if len(responses) != 2 || !closed {
		t.Errorf("got %v, closed %t, want two responses and the end", responses, closed)
	}
}
