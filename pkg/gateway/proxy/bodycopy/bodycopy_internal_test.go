package bodycopy

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keywarden/keywarden/pkg/splice"
)

// source gives one byte for each of its errors.
type source struct {
	io.Reader
	errs []error // of each piece
}

func (s *source) CanFill() bool { return len(s.errs) > 0 }

func (s *source) FillPipe(*splice.Pipe) (int, error) {
	err := s.errs[0]
	s.errs = s.errs[1:]
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return 1, err
}

type sink struct {
	*httptest.ResponseRecorder
	drained int
	err     error
}

func (s *sink) CanDrain() bool { return true }

func (s *sink) DrainPipe(*splice.Pipe) (int, error) {
	s.drained++
	return 1, s.err
}

func TestBodyIsSplicedUpToItsEndOrTheFirstError(t *testing.T) {
	var pool splice.Pool
	pipe := pool.Get()
	if pipe == nil {
		t.Skip("there are no pipes on this system")
	}
	pool.Put(pipe)
	broken, gone := errors.New("broken"), errors.New("gone")
	for name, c := range map[string]struct {
		source  []error
		sink    error
		want    error
		drained int
		refused bool
	}{
		"whole":                       {[]error{nil, nil, io.EOF}, nil, io.EOF, 3, false},
		"the rest is to be copied":    {[]error{nil, nil}, nil, nil, 2, false},
		"the service breaks it off":   {[]error{nil, broken}, nil, broken, 1, false},
		"the client has gone":         {[]error{nil, nil}, gone, gone, 1, false},
		"the system cannot":           {[]error{splice.ErrUnavailable, nil}, nil, nil, 0, true},
		"nothing that can be spliced": {nil, nil, nil, 0, false},
	} {
		copier := New()
		w := &sink{httptest.NewRecorder(), 0, c.sink}
		err := copier.splice(w, &source{strings.NewReader(""), c.source})
		if !errors.Is(err, c.want) || w.drained != c.drained {
			t.Errorf("%s: %d pieces and %v, want %d and %v", name, w.drained, err, c.drained, c.want)
		}
		if refused := copier.pipes.Get() == nil; refused != c.refused {
			t.Errorf("%s: refused from now on: %t", name, refused)
		}
	}
	copier := New()
	if err := copier.splice(httptest.NewRecorder(), &source{strings.NewReader(""), []error{nil}}); err != nil {
		t.Errorf("a writer without a socket: %v", err)
	}
}
