package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// roleArgument makes this program be one of the others in the measurement.
const roleArgument = "role"

// Roles.
const (
	roleBackend = "backend"
	roleProxy   = "proxy"
)

// answerBytes is the size of an answer's body.
const answerBytes = 1024

// play is one role until the process is ended. It prints its address first.
func play(args []string) error {
	var handler http.Handler
	switch {
	case len(args) == 1 && args[0] == roleBackend:
		handler = backend()
	case len(args) == 2 && args[0] == roleProxy:
		target, err := url.Parse(args[1])
		if err != nil {
			return err
		}
		handler = bareProxy(target)
	default:
		return errors.New("no such role")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, listener.Addr())
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	return server.Serve(listener)
}

func backend() http.Handler {
	body := []byte(strings.Repeat("a", answerBytes))
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/plain")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}

// bareProxy is what somebody who knows net/http would write in an hour: the
// standard library's reverse proxy, with connections kept and buffers reused.
func bareProxy(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
		},
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
			WriteBufferSize:     16 << 10,
			ReadBufferSize:      16 << 10,
		},
		BufferPool: &buffers{sync.Pool{New: func() any { return new([bufferBytes]byte) }}},
	}
}

const bufferBytes = 32 << 10

// buffers implements httputil.BufferPool without an allocation in each Put.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[bufferBytes]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[bufferBytes]byte)(buffer)) }
