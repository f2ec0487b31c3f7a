package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"sync/atomic"
)

var (
	statusOK         = []byte("HTTP/1.1 200")
	contentLength    = []byte("content-length")
	transferEncoding = []byte("transfer-encoding")
	chunked          = []byte("chunked")
)

// head is what tells how an answer ends.
type head struct {
	length  int // -1 when there is none
	chunked bool
}

// readHead reads the header of an answer with status 200; any other is an error.
func readHead(in *bufio.Reader) (head, error) {
	h := head{length: -1}
	line, err := in.ReadSlice('\n')
	if err != nil {
		return h, err
	}
	if !bytes.HasPrefix(line, statusOK) {
		return h, fmt.Errorf("answered %q", line)
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return h, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			return h, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, contentLength):
			if h.length, err = strconv.Atoi(string(value)); err != nil {
				return h, err
			}
		case bytes.EqualFold(name, transferEncoding):
			h.chunked = bytes.EqualFold(value, chunked)
		}
	}
}

// readAnswer reads one whole answer with status 200.
func readAnswer(in *bufio.Reader) error {
	h, err := readHead(in)
	switch {
	case err != nil:
		return err
	case h.chunked:
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(in)); err != nil {
			return err
		}
		_, err = in.Discard(len("\r\n")) // of the trailer section, which is empty
		return err
	case h.length < 0:
		return errors.New("an answer that does not say where it ends")
	default:
		_, err = in.Discard(h.length)
		return err
	}
}

// eventPrefix begins the one line that each event has.
var eventPrefix = []byte("data: ")

// readEvents reads an answer of server-sent events and counts them as they come,
// until the answer ends, which is an error if it was cut off.
func readEvents(in *bufio.Reader, count *atomic.Int64) error {
	h, err := readHead(in)
	if err != nil {
		return err
	}
	if !h.chunked {
		return errors.New("a stream of events that is not chunked")
	}
	lines := bufio.NewReaderSize(httputil.NewChunkedReader(in), 16<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if bytes.HasPrefix(line, eventPrefix) {
			count.Add(1)
		}
	}
}
