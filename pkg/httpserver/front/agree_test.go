package front

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"
)

// judge holds the front against net/http, on the same bytes. It is used by one goroutine.
type judge struct {
	h      head
	r      http.Request
	source bytes.Reader
	in     *bufio.Reader
	space  [maxBody + 1]byte
}

func newJudge() *judge { return &judge{in: bufio.NewReaderSize(nil, 4<<10)} }

// theirs reads the next request as net/http's server does, with what that checks behind
// its parser.
func (j *judge) theirs() (*http.Request, error) {
	r, err := http.ReadRequest(j.in)
	if err != nil {
		return nil, err
	}
	switch {
	case r.ProtoMajor != 1:
		return nil, errors.New("another version")
	case r.Host == "" || !httpguts.ValidHostHeader(r.Host): // stricter: an empty one passes there
		return nil, errors.New("no good Host")
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, errors.New("invalid name")
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return nil, errors.New("invalid value")
			}
		}
	}
	return r, nil
}

// agree goes through the requests of b for as long as the front takes them. It returns how
// many that were, and what net/http understood otherwise. cut chooses a part of each head:
// with that alone, the front has to wait.
func (j *judge) agree(b []byte, cut func(n int) int) (taken int, err error) {
	j.source.Reset(b)
	j.in.Reset(&j.source)
	for at := 0; at < len(b); taken++ {
		rest := b[at:]
		if j.h.parse(rest) != plain || len(rest) < j.h.length+j.h.body {
			return taken, nil
		}
		length, size := j.h.length, j.h.body
		ours := new(exchange)
		j.r = http.Request{}
		if !ours.fill(&j.r, &j.h, rest) {
			return taken, nil
		}
		if n := cut(length); j.h.parse(rest[:n]) != more {
			return taken, fmt.Errorf("at %d: the first %d bytes of the head are judged already", at, n)
		}
		theirs, err := j.theirs()
		if err != nil {
			return taken, fmt.Errorf("at %d: net/http refuses it: %w", at, err)
		}
		if what := difference(&j.r, theirs); what != "" {
			return taken, fmt.Errorf("at %d: %s differs:\n%+v\n%+v", at, what, j.r, *theirs)
		}
		n, err := io.ReadFull(theirs.Body, j.space[:])
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return taken, fmt.Errorf("at %d: net/http's body: %w", at, err)
		}
		if !bytes.Equal(j.space[:n], rest[length:length+size]) {
			return taken, fmt.Errorf("at %d: the body differs", at)
		}
		at += length + size
		if left := j.in.Buffered() + j.source.Len(); left != len(b)-at {
			return taken, fmt.Errorf("the next request begins at %d, by net/http at %d", at, len(b)-left)
		}
	}
	return taken, nil
}

// difference names what is not the same in two requests; "" for nothing.
func difference(ours, theirs *http.Request) string {
	switch {
	case ours.Method != theirs.Method:
		return "Method"
	case ours.RequestURI != theirs.RequestURI:
		return "RequestURI"
	case *ours.URL != *theirs.URL:
		return "URL"
	case ours.Proto != theirs.Proto || ours.ProtoMajor != theirs.ProtoMajor || ours.ProtoMinor != theirs.ProtoMinor:
		return "Proto"
	case ours.Host != theirs.Host:
		return "Host"
	case ours.ContentLength != theirs.ContentLength:
		return "ContentLength"
	case theirs.TransferEncoding != nil || ours.TransferEncoding != nil:
		return "TransferEncoding"
	case ours.Close != theirs.Close:
		return "Close"
	case len(theirs.Trailer) > 0 || ours.Trailer != nil:
		return "Trailer"
	case (theirs.Body == http.NoBody) != (ours.ContentLength == 0):
		return "Body"
	case len(ours.Header) != len(theirs.Header):
		return "Header"
	}
	for name, values := range theirs.Header {
		if !slices.Equal(ours.Header[name], values) {
			return name
		}
	}
	return ""
}

// runAgreement holds n inputs of the generator with that seed against net/http, on all
// processors. It returns how many requests and inputs were taken.
func runAgreement(t *testing.T, n int, seed uint64) (inputs int, requests int) {
	t.Helper()
	workers := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range workers {
		share := n / workers
		if i < n%workers {
			share++
		}
		wg.Go(func() {
			g, j := newGenerator(seed, uint64(i)), newJudge()
			takenInputs, takenRequests := 0, 0
			for range share {
				b := g.next()
				taken, err := j.agree(b, g.rand.IntN)
				if err != nil {
					t.Errorf("%q: %v", b, err)
					break
				}
				takenRequests += taken
				if taken > 0 {
					takenInputs++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			inputs += takenInputs
			requests += takenRequests
		})
	}
	wg.Wait()
	return inputs, requests
}

// TestFrontAgreesWithNetHTTP: what the front takes, net/http takes, and understands in the
// same way. KEYWARDEN_TEST_INPUTS says how many inputs, KEYWARDEN_TEST_SEED which.
func TestFrontAgreesWithNetHTTP(t *testing.T) {
	inputs, seed := number(t, "KEYWARDEN_TEST_INPUTS", 50_000), number(t, "KEYWARDEN_TEST_SEED", 1)
	if os.Getenv("KEYWARDEN_TEST_SEED") == "" && os.Getenv("KEYWARDEN_TEST_INPUTS") != "" {
		seed = int(time.Now().Unix())
	}
	began := time.Now()
	taken, requests := runAgreement(t, inputs, uint64(seed))
	t.Logf("inputs: %d, with a request that was taken: %d (%.1f %%), requests taken: %d, differences: %t, seed: %d, %.1f s",
		inputs, taken, 100*float64(taken)/float64(inputs), requests, t.Failed(), seed, time.Since(began).Seconds())
	if taken*5 < inputs {
		t.Errorf("only %d of %d inputs have a request that is taken: the rest says nothing", taken, inputs)
	}
}

func number(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func FuzzFrontAgreesWithNetHTTP(f *testing.F) {
	for _, text := range seeds(f) {
		f.Add([]byte(text), uint16(7))
	}
	j := newJudge()
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		if _, err := j.agree(b, func(n int) int { return int(at) % n }); err != nil {
			t.Fatal(err)
		}
	})
}
