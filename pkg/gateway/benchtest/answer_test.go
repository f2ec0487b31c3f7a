package main

import (
	"bufio"
	"io"
	"strings"
	"sync/atomic"
	"testing"
)

func TestOnlyWholeAnswersCount(t *testing.T) {
	for text, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab":                               true,
		"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nab":                                true,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab":                               false,
		"HTTP/1.1 200 OK\r\n\r\nab":                                                    false,
		"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nab":                             false,
		"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nab":                             false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n":    true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n":        false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n5\r\nx\r\n\r": false,
		"": false,
	} {
		if err := readAnswer(bufio.NewReader(strings.NewReader(text))); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// An answer leaves the next one on the connection where it is.
func TestAnswersFollowEachOther(t *testing.T) {
	in := bufio.NewReader(strings.NewReader("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" +
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	for i := range 3 {
		if err := readAnswer(in); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	if rest, _ := io.ReadAll(in); len(rest) > 0 {
		t.Errorf("%q was left", rest)
	}
}

func TestEventsAreCountedHoweverTheyAreCut(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for text, want := range map[string]int64{
		head + "10\r\ndata: a\n\ndata: b\r\n2\r\n\n\n\r\n0\r\n\r\n": 2,
		head + "3\r\ndat\r\n6\r\na: x\n\n\r\n0\r\n\r\n":             1,
		head + "9\r\ndata: x\n\n\r\n":                               1, // and then the connection ends
		head + "9\r\n: ping x\n\r\n0\r\n\r\n":                       0,
	} {
		var count atomic.Int64
		_ = readEvents(bufio.NewReader(strings.NewReader(text)), &count)
		if count.Load() != want {
			t.Errorf("%q: counted %d, want %d", text, count.Load(), want)
		}
	}
	var count atomic.Int64
	for _, text := range []string{
		head + "9\r\ndata: x\n\n\r\n", // cut off
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndata: x\n\n",
		"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
	} {
		if err := readEvents(bufio.NewReader(strings.NewReader(text)), &count); err == nil {
			t.Errorf("%q is a whole stream", text)
		}
	}
}
