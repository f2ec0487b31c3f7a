package ginproxy

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
)

// forwarder is the standard library's reverse proxy, with connections kept and
// buffers reused.
type forwarder struct{ proxy *httputil.ReverseProxy }

func newForwarder(target *url.URL, watch *observer) *forwarder {
	var transport http.RoundTripper = &http.Transport{
		MaxIdleConns:        4096,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
		WriteBufferSize:     16 << 10,
		ReadBufferSize:      16 << 10,
	}
	if watch != nil {
		transport = &timed{next: transport, watch: watch}
	}
	return &forwarder{&httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
		},
		Transport: transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway) // the access log has it
		},
		BufferPool: &buffers{sync.Pool{New: func() any { return new([bufferBytes]byte) }}},
	}}
}

// present says to the service who calls, and keeps the credential from it. It writes
// into the request's own header, which the reverse proxy then copies.
func present(h http.Header, k *call) {
	for name := range h {
		if strings.HasPrefix(name, "X-Consumer") {
			h.Del(name)
		}
	}
	h.Set(headerRequestID, k.id)
	if k.who == nil {
		return
	}
	h.Del(headerKey)
	h.Del("Authorization")
	h.Set("X-Consumer", k.who.id)
	h.Set("X-Consumer-Kind", k.who.kind)
	h.Set("X-Consumer-Role", k.who.role)
	if k.who.key != "" {
		h.Set("X-Consumer-Key", k.who.key)
	}
}

// handle forwards the request.
func (f *forwarder) handle(c *gin.Context) {
	present(c.Request.Header, callOf(c))
	f.proxy.ServeHTTP(c.Writer, c.Request)
}

const bufferBytes = 32 << 10

// buffers implements httputil.BufferPool without an allocation in each Put.
type buffers struct{ pool sync.Pool }

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[bufferBytes]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[bufferBytes]byte)(buffer)) }
