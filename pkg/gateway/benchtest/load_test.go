package main

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes are connections to a server that answers a request once delay of its number
// has passed.
func pipes(served *sync.WaitGroup, delay func(n int64) time.Duration) func(context.Context, string) (net.Conn, error) {
	var n atomic.Int64
	return func(context.Context, string) (net.Conn, error) {
		client, server := net.Pipe()
		served.Go(func() {
			defer func() { _ = server.Close() }()
			in := bufio.NewReader(server)
			for {
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				time.Sleep(delay(n.Add(1)))
				if _, err := server.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")); err != nil {
					return
				}
			}
		})
		return client, nil
	}
}

// answered is how many requests are answered within the time when the first ones take
// 2 s and all others 1 ms.
func answered(t *testing.T, rate float64, stuck int64, within time.Duration) (n int64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var served sync.WaitGroup
		l := &load{connections: 4, rate: rate, request: same(getText(nil, "bench.test", "/", "")), dial: pipes(&served, func(n int64) time.Duration {
			if n <= stuck {
				return 2 * time.Second
			}
			return time.Millisecond
		})}
		ctx, cancel := context.WithTimeout(t.Context(), within-time.Nanosecond) // the request that is due then is not
		defer cancel()
		if err := l.run(ctx); err != nil {
			t.Fatal(err)
		}
		served.Wait()
		n = l.done.Load()
	})
	return n
}

// What is due is sent, however long others took: none is left out while the service
// stands still.
func TestScheduledRequestsAreNotPutOff(t *testing.T) {
	for _, stuck := range []int64{0, 1, 4} {
		if got := answered(t, 100, stuck, 10*time.Second); got != 1000 {
			t.Errorf("with %d stuck requests, %d of 1000 were answered", stuck, got)
		}
	}
}

// As long as there is a free connection, what is due is sent at its time: the one that
// is stuck, and is answered at last, holds nothing up.
func TestScheduledRequestsTakeAnotherConnection(t *testing.T) {
	if got := answered(t, 100, 1, time.Second); got != 100 {
		t.Errorf("%d of 100 requests were answered while one was stuck", got)
	}
}

// At saturation a connection waits for its answer: 2 s of it are lost.
func TestSaturationHasOneRequestOnEachConnection(t *testing.T) {
	if got := answered(t, 0, 0, 10*time.Second); got != 4*10_000 {
		t.Errorf("%d requests of 1 ms on 4 connections in 10 s", got)
	}
	if got := answered(t, 0, 4, 10*time.Second); got != 4*8_001 {
		t.Errorf("%d requests in 10 s of which 2 s are lost", got)
	}
}

func TestAWrongAnswerEndsTheLoad(t *testing.T) {
	for _, rate := range []float64{0, 1000} {
		server := &http.Server{Handler: backend(), ReadHeaderTimeout: time.Minute}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = server.Serve(listener) }()
		l := &load{addr: listener.Addr().String(), connections: 2, rate: rate, request: same(getText(nil, "bench.test", "/bench/nothing", ""))}
		if err := l.run(t.Context()); err == nil {
			t.Errorf("rate %v: answers with 404 are no error", rate)
		}
		_ = server.Close()
	}
}

// Requests are numbered, so that they can differ.
func TestEachRequestHasItsNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var served sync.WaitGroup
		var mu sync.Mutex
		seen := map[int64]int{}
		l := &load{connections: 3, dial: pipes(&served, func(int64) time.Duration { return time.Millisecond }), request: func(to []byte, n int64) []byte {
			mu.Lock()
			seen[n]++
			mu.Unlock()
			return getText(to, "bench.test", "/", "")
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := l.run(ctx); err != nil {
			t.Fatal(err)
		}
		served.Wait()
		for n := range int64(len(seen)) {
			if seen[n] != 1 {
				t.Errorf("request %d was made %d times", n, seen[n])
			}
		}
		if len(seen) < 100 {
			t.Errorf("only %d requests", len(seen))
		}
	})
}
