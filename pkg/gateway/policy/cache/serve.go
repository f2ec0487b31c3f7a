package cache

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/canonical"
	"github.com/keywarden/keywarden/pkg/gateway/policy"
	"github.com/keywarden/keywarden/pkg/httpcache"
	"github.com/keywarden/keywarden/pkg/reqctx"
)

// keySpace is the room for the texts of most keys, in bytes.
const keySpace = 512

// serve answers a request.
func (s *step) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	var space [keySpace]byte
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		s.change(next, w, r)
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"): // the proxy passes no other offer on
		s.became(Bypass)
		next.ServeHTTP(w, r)
	default:
		q := s.ask(r, space[:])
		q.directives = httpcache.ParseRequest(r.Header)
		if forService(r, q.directives) {
			s.became(Bypass)
			s.fetch(next, w, r, &answer{question: &q, reason: "bypass"})
			return
		}
		s.answer(next, w, r, &q)
	}
}

// forService reports whether a request is none for caches.
func forService(r *http.Request, d httpcache.Directives) bool {
	return d.NoStore || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || len(r.Header["If-Match"]) > 0 || len(r.Header["If-Unmodified-Since"]) > 0
}

// change forwards a request that may change something. When it did, what is stored
// of the resource is forgotten before the client knows (RFC 9111 section 4.4).
func (s *step) change(next http.Handler, w http.ResponseWriter, r *http.Request) {
	s.became(Bypass)
	q := question{info: reqctx.From(r.Context())}
	a := &answer{question: &q, reason: "method"}
	if r.Method != http.MethodOptions && r.Method != http.MethodTrace {
		a.onStatus = func(status int) {
			if status < 200 || status >= 400 {
				return
			}
			s.forget(r, q.info.Host, r.URL.Path)
			for _, name := range [...]string{"Location", "Content-Location"} {
				s.forgetLink(r, q.info.Host, a.header.Get(name))
			}
		}
	}
	s.fetch(next, w, r, a)
}

func (s *step) forget(r *http.Request, host, path string) {
	s.cache.Store.Forget(context.WithoutCancel(r.Context()), httpcache.ResourceOf(host, path))
}

// forgetLink forgets what a field of the answer refers to, if it is of the same
// host: nobody may have another's answers forgotten.
func (s *step) forgetLink(r *http.Request, host, link string) {
	if link == "" {
		return
	}
	to, err := url.Parse(link)
	if err != nil {
		return
	}
	to = r.URL.ResolveReference(to)
	if to.Host != "" {
		if other, _, err := canonical.Host(to.Host); err != nil || other != host {
			return
		}
	}
	s.forget(r, host, to.Path)
}

// lookup finds what is stored for the request, and may be given to it. reason is
// why there is nothing.
func (s *step) lookup(r *http.Request, q *question) (o *httpcache.Object, key httpcache.Key, since httpcache.Mark, reason string) {
	key, reason = q.key, "uri-miss"
	o, since = s.cache.Store.Get(r.Context(), key)
	if o != nil && o.Status == 0 {
		key, reason = q.variant(o.Vary, r.Header), "vary-miss"
		o, _ = s.cache.Store.Get(r.Context(), key)
	}
	if o != nil && (o.Status == 0 || o.Sharing < q.rules.Need) {
		o, reason = nil, "request"
	}
	return o, key, since, reason
}

// answer answers from what is stored, or has it fetched.
func (s *step) answer(next http.Handler, w http.ResponseWriter, r *http.Request, q *question) {
	now := s.cache.Now()
	o, key, since, reason := s.lookup(r, q)
	if o != nil {
		reason = "stale"
		if o.TTL(now) > 0 {
			reason = "request"
		}
		use := o.UseFor(q.directives, now)
		if use == httpcache.Background && !q.directives.OnlyIfCached {
			s.refresh(next, r, q, o, key, since)
		}
		if use != httpcache.Validate && s.give(w, r, o, hit(o, now)) {
			s.observe(o, now)
			return
		}
	}
	switch {
	case q.directives.OnlyIfCached:
		policy.Refuse(w, r, Name, ErrNotCached)
	case len(r.Header["Range"]) > 0:
		s.became(Bypass)
		s.fetch(next, w, r, &answer{question: q, reason: "bypass"})
	case r.Method == http.MethodHead:
		s.became(Miss)
		s.fetch(next, w, r, &answer{question: q, reason: reason, old: o})
	default:
		s.ahead(next, w, r, &answer{question: q, reason: reason, old: o, key: key, since: since})
	}
}

func (s *step) observe(o *httpcache.Object, now time.Time) {
	if o.TTL(now) > 0 {
		s.became(Hit)
	} else {
		s.became(Stale)
	}
}

// attempts is how often a request waits for others before it goes on its own.
const attempts = 2

// ahead fetches the answer, or waits for another request that does.
func (s *step) ahead(next http.Handler, w http.ResponseWriter, r *http.Request, a *answer) {
	q := a.question
	a.stores = true
	// Who wants a newer answer than others do has to ask for it.
	together := !q.alone && !q.directives.NoCache && !q.directives.MaxAge.Given && !q.directives.MinFresh.Given
	if a.old == nil && httpcache.IsConditional(r.Header) {
		together = false // the answer may be that nothing has changed for this client
	}
	for range attempts {
		if !together || s.cache.alone.has(a.key.Entry, s.cache.Now()) {
			break
		}
		f, leads := s.cache.takeoff(a.key.Entry)
		if leads {
			a.flight = f
			if s.landed(w, r, a) {
				return
			}
			break
		}
		if !f.await(r.Context()) {
			break
		}
		if o := f.object; o != nil && s.follow(w, r, a, f) {
			s.became(Collapsed)
			return
		}
		if !f.failed {
			break
		}
	}
	defer a.flight.land(nil, [32]byte{}, true)
	s.fetch(next, w, r, a)
}

// landed answers with what another request has stored after this one looked for it
// and before it became a leader: its flight was over by then. Where the store is far
// away, one more request now and then is cheaper than one more look each time.
func (s *step) landed(w http.ResponseWriter, r *http.Request, a *answer) bool {
	if s.cache.Remote {
		return false
	}
	o, key, _, _ := s.lookup(r, a.question)
	now := s.cache.Now()
	if o == nil || o.UseFor(a.question.directives, now) != httpcache.Immediately {
		return false
	}
	a.flight.land(o, key.Entry, false)
	if !s.give(w, r, o, hit(o, now)) {
		return false
	}
	s.observe(o, now)
	return true
}

// follow answers with what another request has fetched, if that may be given.
func (s *step) follow(w http.ResponseWriter, r *http.Request, a *answer, f *flight) bool {
	o, q, now := f.object, a.question, s.cache.Now()
	if o.Sharing < q.rules.Need || q.variant(o.Vary, r.Header).Entry != f.variant {
		return false
	}
	if o.UseFor(q.directives, now) != httpcache.Immediately && (!f.failed || !o.AllowedOnError(now)) {
		return false
	}
	return s.give(w, r, o, "keywarden; fwd="+a.reason+"; collapsed; ttl="+ttl(o, now))
}

// refresh fetches in the background what is given now (RFC 5861 section 3).
func (s *step) refresh(next http.Handler, r *http.Request, q *question, o *httpcache.Object, key httpcache.Key, since httpcache.Mark) {
	f, leads := s.cache.takeoff(key.Entry)
	if !leads {
		return
	}
	if !s.cache.Remote { // see landed
		if fresh, variant, _, _ := s.lookup(r, q); fresh != nil && fresh.TTL(s.cache.Now()) > 0 {
			f.land(fresh, variant.Entry, false)
			return
		}
	}
	info := *q.info // the request's own goes with it
	info.Fields, info.Decide = nil, nil
	detached := reqctx.With(context.WithoutCancel(r.Context()), &info)
	copied := *q
	copied.info = &info
	out := r.Clone(detached)
	out.Method, out.Body, out.ContentLength = http.MethodGet, http.NoBody, 0
	delete(out.Header, "Range")
	delete(out.Header, "If-Range")
	started := s.cache.start(func(stop context.Context) {
		defer f.land(nil, [32]byte{}, true)
		ctx, cancel := context.WithTimeout(detached, refreshTimeout)
		defer cancel()
		defer context.AfterFunc(stop, cancel)()
		defer func() { // a broken-off answer panics; there is nobody to break it off for
			if v := recover(); v != nil && !aborted(v) {
				s.cache.Panicked(s.Route, v, debug.Stack())
			}
		}()
		s.fetch(next, nobody{http.Header{}}, out.WithContext(ctx), &answer{
			question: &copied, reason: "stale", old: o, key: key, since: since, stores: true, silent: true, flight: f,
		})
	})
	if !started {
		f.land(nil, [32]byte{}, true)
	}
}

// refreshTimeout bounds an exchange in the background.
const refreshTimeout = 30 * time.Second

func aborted(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// fetch forwards the request and passes the answer on. What the service confirms,
// or cannot answer, is answered from what is stored.
func (s *step) fetch(next http.Handler, w http.ResponseWriter, r *http.Request, a *answer) {
	a.step, a.w = s, w
	out := r
	if a.old != nil && a.stores {
		out = withConditions(r, a)
	}
	s.run(next, out, a)
	if !a.held {
		if a.stores {
			a.observe(Miss)
		}
		return
	}
	info, now := a.question.info, s.cache.Now()
	if a.status != http.StatusNotModified {
		info.Code, info.Policy = "", "" // the client does not get it; the reason stays for the log
		a.observe(Stale)
		a.flight.land(a.old, a.key.Entry, true)
		s.give(w, r, a.old, "keywarden; fwd="+a.reason+"; ttl="+ttl(a.old, now)+"; detail=stale-if-error")
		return
	}
	fresh, keep, same := a.old.Freshen(a.exchange, a.question.rules)
	if !same { // it confirms what is not stored: once more, without conditions
		again := &answer{question: a.question, reason: a.reason, key: a.key, silent: a.silent, since: a.since, stores: true, flight: a.flight}
		bare := *r
		bare.Header = maps.Clone(r.Header)
		httpcache.SetConditions(bare.Header, nil)
		s.fetch(next, w, &bare, again)
		return
	}
	if keep {
		s.put(a.question, r.Header, fresh, a.since, a.flight)
	} else {
		s.cache.Store.Delete(context.WithoutCancel(r.Context()), a.key)
	}
	a.observe(Revalidated)
	addHeader(w.Header(), notStored(a.exchange.Header, fresh))
	s.give(w, r, fresh, "keywarden; fwd="+a.reason+"; fwd-status=304; ttl="+ttl(fresh, now))
}

// notStored are the fields of a confirmation that are for the caller who asked, and
// for nobody after it: a cookie, or what must not be given without asking. What is
// said of the body of the 304 is not of the one that is given.
func notStored(confirmation http.Header, fresh *httpcache.Object) http.Header {
	var own http.Header
	for name, values := range confirmation {
		if fresh.Header[name] != nil || name == "Trailer" || name == "Cache-Status" || strings.HasPrefix(name, "Content-") || strings.HasPrefix(name, http.TrailerPrefix) {
			continue
		}
		if own == nil {
			own = http.Header{}
		}
		own[name] = values
	}
	return own
}

// withConditions asks only for what has changed.
func withConditions(r *http.Request, a *answer) *http.Request {
	out := *r
	out.Header = maps.Clone(r.Header)
	a.validates = httpcache.SetConditions(out.Header, a.old)
	if !a.validates {
		return r
	}
	return &out
}

// run has the service answer.
func (s *step) run(next http.Handler, out *http.Request, a *answer) {
	a.request, a.header, a.requested = out, http.Header{}, s.cache.Now()
	next.ServeHTTP(a, out)
	a.finish()
}

// markerKept is how long it is at least remembered what answers go by.
const markerKept = 24 * time.Hour

// put stores an answer, and gives it to those who wait.
func (s *step) put(q *question, request http.Header, o *httpcache.Object, since httpcache.Mark, f *flight) {
	main, key := q.key, q.variant(o.Vary, request)
	keep := o.Keep(s.cache.Now())
	store := func(ctx context.Context) {
		if len(o.Vary) > 0 {
			marker := &httpcache.Object{Vary: o.Vary, Route: o.Route, Host: o.Host, Path: o.Path}
			s.cache.Store.Put(ctx, main, marker, max(keep, markerKept), since)
		}
		s.cache.Store.Put(ctx, key, o, keep, since)
	}
	if !s.cache.Remote {
		store(s.cache.ctx) // first, so that who finds no flight finds the answer
		f.land(o, key.Entry, false)
		return
	}
	f.land(o, key.Entry, false)
	s.cache.start(store)
}

// hit is what the client is told of an answer that was there.
func hit(o *httpcache.Object, now time.Time) string { return "keywarden; hit; ttl=" + ttl(o, now) }

func ttl(o *httpcache.Object, now time.Time) string {
	return strconv.FormatInt(int64(o.Lifetime/time.Second)-int64(o.AgeAt(now)/time.Second), 10) // Age and ttl add up
}

// give answers with o; false when the request asks for a part that it cannot give.
func (s *step) give(w http.ResponseWriter, r *http.Request, o *httpcache.Object, told string) bool {
	h := w.Header()
	body, status := o.Body, o.Status
	var part httpcache.Part
	unchanged := o.NotModified(r.Header)
	if !unchanged && len(r.Header["Range"]) > 0 && r.Method == http.MethodGet {
		var ok bool
		if part, ok = o.Range(r.Header); !ok {
			return false
		}
		body, status = body[part.From:part.To], http.StatusPartialContent
	}
	addHeader(h, o.Header)
	h["Age"] = []string{strconv.FormatInt(int64(o.AgeAt(s.cache.Now())/time.Second), 10)}
	h["Cache-Status"] = append(slices.Clip(h["Cache-Status"]), told)
	switch {
	case unchanged:
		dropContent(h)
		w.WriteHeader(http.StatusNotModified)
		return true
	case status == http.StatusPartialContent:
		h["Content-Range"] = []string{"bytes " + strconv.Itoa(part.From) + "-" + strconv.Itoa(part.To-1) + "/" + strconv.Itoa(len(o.Body))}
	}
	if status != http.StatusNoContent && status != http.StatusResetContent {
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead && len(body) > 0 {
		_, _ = w.Write(body) //nolint:gosec // what the service has answered, with its media type; a client that is gone need not be told
	}
	return true
}

// dropContent removes what describes a body that is not sent (RFC 9110 section
// 15.4.5).
func dropContent(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Content-") && name != "Content-Location" && name != "Content-Security-Policy" {
			delete(h, name)
		}
	}
}
