package httpcache_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keywarden/keywarden/pkg/httpcache"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func date(offset time.Duration) string { return epoch.Add(offset).Format(http.TimeFormat) }

// exchange is a GET that was answered at epoch, a second after it was asked.
func exchange(status int, fields ...string) httpcache.Exchange {
	h := http.Header{"Date": {date(0)}}
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "Date" {
			delete(h, "Date")
		}
		h.Add(fields[i], fields[i+1])
	}
	return httpcache.Exchange{Method: "GET", Request: http.Header{}, Status: status, Header: h, Requested: epoch, Received: epoch}
}

func TestDirectivesAreReadStrictly(t *testing.T) {
	span := func(s int) httpcache.Span {
		return httpcache.Span{Given: true, Value: time.Duration(s) * time.Second}
	}
	for text, want := range map[string]httpcache.Directives{
		"":                          {},
		" , ,":                      {},
		"No-StOrE":                  {NoStore: true},
		"x=\"no-store\"":            {},
		`x="a\", no-store"`:         {},
		`x="no-store, max-age=60`:   {NoStore: true}, // the quotation does not end
		"max-age=60":                {MaxAge: span(60)},
		`max-age="60"`:              {MaxAge: span(60)},
		"max-age='60'":              {MaxAge: span(0)},
		"max-age=60, max-age=30":    {MaxAge: span(30)},
		"max-age=-1":                {MaxAge: span(0)},
		"max-age=1.5":               {MaxAge: span(0)},
		"max-age":                   {MaxAge: span(0)},
		"max-age= 60":               {MaxAge: span(0)},
		"max-age=99999999999999999": {MaxAge: span(1 << 31)},
		"s-maxage=1,public":         {SMaxAge: span(1), Public: true},
		"private=\"x\"":             {Private: true},
		"no-cache":                  {NoCache: true},
		`no-cache="a, b-c"`:         {NoCacheFields: []string{"A", "B-C"}},
		`no-cache=""`:               {NoCache: true},
		"max-stale":                 {MaxStale: span(1 << 31)},
		"max-stale=x":               {MaxStale: span(0)},
		"min-fresh=x":               {MinFresh: span(1 << 31)},
		"stale-if-error=5, stale-while-revalidate=6":                         {StaleIfError: span(5), StaleWhileRevalidate: span(6)},
		"must-revalidate, proxy-revalidate, must-understand, only-if-cached": {MustRevalidate: true, ProxyRevalidate: true, MustUnderstand: true, OnlyIfCached: true},
	} {
		if diff := cmp.Diff(want, httpcache.ParseResponse(http.Header{"Cache-Control": {text}})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	pragma := http.Header{"Pragma": {"x, No-Cache"}}
	if !httpcache.ParseRequest(pragma).NoCache {
		t.Error("Pragma does not count")
	}
	pragma["Cache-Control"] = []string{"max-age=1"}
	if httpcache.ParseRequest(pragma).NoCache {
		t.Error("Pragma counts beside Cache-Control")
	}
}

func FuzzDirectives(f *testing.F) {
	for _, s := range []string{`max-age=1, no-cache="a"`, `x="`, `a\"`, ",,", "max-stale"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := httpcache.ParseResponse(http.Header{"Cache-Control": {s}})
		// What stands before the field cannot be undone by what follows.
		before := httpcache.ParseResponse(http.Header{"Cache-Control": {"no-store", s}})
		if !before.NoStore || d.MaxAge.Value < 0 || d.SMaxAge.Value > 1<<31*time.Second {
			t.Errorf("%q: %+v", s, d)
		}
	})
}

// TestHowLongAnswersAreFresh says for how long, in seconds from their arrival; -1
// stands for answers that are not stored.
func TestHowLongAnswersAreFresh(t *testing.T) {
	rules := httpcache.Rules{DefaultTTL: 10 * time.Second}
	for name, c := range map[string]struct {
		status int
		fields []string
		want   int
	}{
		"max-age":                     {200, []string{"Cache-Control", "max-age=60"}, 60},
		"s-maxage before max-age":     {200, []string{"Cache-Control", "max-age=60, s-maxage=30"}, 30},
		"max-age before Expires":      {200, []string{"Cache-Control", "max-age=60", "Expires", date(time.Hour)}, 60},
		"Expires":                     {200, []string{"Expires", date(time.Minute)}, 60},
		"Expires of the past":         {200, []string{"Expires", date(-time.Minute)}, -1},
		"Expires 0":                   {200, []string{"Expires", "0"}, -1},
		"Expires in another zone":     {200, []string{"Expires", strings.Replace(date(time.Minute), "GMT", "CET", 1)}, -1},
		"Expires twice":               {200, []string{"Expires", date(time.Minute), "Expires", date(time.Minute)}, -1},
		"nothing":                     {200, nil, 10},
		"nothing, created":            {201, nil, -1},
		"nothing, not found":          {404, nil, 10},
		"nothing, not allowed":        {405, nil, -1},
		"nothing, server error":       {500, nil, -1},
		"public":                      {201, []string{"Cache-Control", "public"}, 10},
		"server error with a time":    {500, []string{"Cache-Control", "max-age=60"}, 60},
		"part":                        {206, []string{"Cache-Control", "max-age=60"}, -1},
		"not modified":                {304, []string{"Cache-Control", "max-age=60"}, -1},
		"unknown status":              {299, []string{"Cache-Control", "max-age=60"}, 60},
		"unknown, must-understand":    {299, []string{"Cache-Control", "max-age=60, must-understand"}, -1},
		"known, must-understand":      {200, []string{"Cache-Control", "max-age=60, must-understand"}, 60},
		"Age":                         {200, []string{"Cache-Control", "max-age=60", "Age", "20"}, 40},
		"Age that is none":            {200, []string{"Cache-Control", "max-age=60", "Age", "x"}, -1},
		"old Date":                    {200, []string{"Cache-Control", "max-age=60", "Date", date(-15 * time.Second)}, 45},
		"Date of the future":          {200, []string{"Cache-Control", "max-age=60", "Date", date(time.Hour)}, 60},
		"too many fields in Vary":     {200, []string{"Cache-Control", "max-age=60", "Vary", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"}, -1},
		"a header that is too large":  {200, []string{"Cache-Control", "max-age=60", "X", strings.Repeat("x", 65<<10)}, -1},
		"stale, and can be validated": {200, []string{"Cache-Control", "max-age=0", "ETag", `"a"`}, 0},
	} {
		x := exchange(c.status, c.fields...)
		o := httpcache.New(x, rules)
		got := -1
		if o != nil {
			got = int(o.TTL(epoch) / time.Second)
		}
		if got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	slow := exchange(200, "Cache-Control", "max-age=60", "Age", "5")
	slow.Requested = epoch.Add(-3 * time.Second)
	if got := httpcache.New(slow, rules).AgeAt(epoch.Add(time.Second)); got != 9*time.Second {
		t.Errorf("an answer that took 3s has the age %s after 1s", got)
	}
}

func TestNothingIsStoredFor(t *testing.T) {
	good := exchange(200, "Cache-Control", "max-age=60")
	if httpcache.New(good, httpcache.Rules{}) == nil {
		t.Fatal("nothing is stored at all")
	}
	for name, change := range map[string]func(x *httpcache.Exchange){
		"other methods":      func(x *httpcache.Exchange) { x.Method = "POST" },
		"requests for parts": func(x *httpcache.Exchange) { x.Request.Set("Range", "bytes=0-1") },
		"no-store requests":  func(x *httpcache.Exchange) { x.Request.Set("Cache-Control", "no-store") },
		"cookies":            func(x *httpcache.Exchange) { x.Header.Set("Set-Cookie", "a=b") },
		"Content-Range":      func(x *httpcache.Exchange) { x.Header.Set("Content-Range", "bytes 0-1/2") },
		"event streams":      func(x *httpcache.Exchange) { x.Header.Set("Content-Type", "Text/Event-Stream; charset=utf-8") },
	} {
		x := exchange(200, "Cache-Control", "max-age=60")
		change(&x)
		if httpcache.New(x, httpcache.Rules{}) != nil {
			t.Errorf("something is stored for %s", name)
		}
	}
}

func TestNoCacheWithNamesLeavesThemOut(t *testing.T) {
	o := httpcache.New(exchange(200, "Cache-Control", `max-age=60, no-cache="x-secret"`, "X-Secret", "1", "X-Other", "2"), httpcache.Rules{})
	if o == nil || o.Header["X-Secret"] != nil || o.Header.Get("X-Other") != "2" || o.NoCache {
		t.Errorf("%+v", o)
	}
}

func TestA304MakesAnAnswerFreshAgain(t *testing.T) {
	stored := httpcache.New(exchange(200, "Cache-Control", "max-age=60", "ETag", `"a"`, "X-Old", "1", "Content-Encoding", "gzip", "Age", "50"), httpcache.Rules{}).Complete([]byte("body"))
	later := exchange(304, "Cache-Control", "max-age=120", "ETag", `W/"a"`, "X-New", "1", "Content-Encoding", "br", "Date", date(time.Hour))
	later.Requested, later.Received = epoch.Add(time.Hour), epoch.Add(time.Hour)
	got, keep, same := stored.Freshen(later, httpcache.Rules{})
	if !keep || !same || string(got.Body) != "body" || got.TTL(later.Received) != 2*time.Minute ||
		got.Header.Get("X-Old")+got.Header.Get("X-New")+got.Header.Get("Content-Encoding") != "11gzip" || got.Header.Get("Date") != date(time.Hour) {
		t.Errorf("%t %t %+v", keep, same, got)
	}
	later.Header.Set("Etag", `"b"`)
	if _, _, same := stored.Freshen(later, httpcache.Rules{}); same {
		t.Error("a 304 of another version counts")
	}
	later.Header.Set("Etag", `"a"`)
	later.Header.Set("Cache-Control", "no-store")
	if got, keep, same := stored.Freshen(later, httpcache.Rules{}); keep || !same || string(got.Body) != "body" || got.UseFor(httpcache.Directives{}, later.Received) != httpcache.Validate {
		t.Errorf("after no-store: %t %t %+v", keep, same, got)
	}
}

func TestPurgesAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := httpcache.Purge{
			Kind:  rapid.SampledFrom([]httpcache.PurgeKind{"route", "path", "key", "all", ""}).Draw(t, "kind"),
			Value: rapid.OneOf(rapid.String(), rapid.StringMatching(`/[a-z/:]{0,9}`)).Draw(t, "value"),
			Host:  rapid.SampledFrom([]string{"", "a.example", "[::1]", "A", "a/b"}).Draw(t, "host"),
		}
		if p.Validate() != nil {
			return
		}
		if got, err := httpcache.ParsePurge(p.String()); err != nil || got != p {
			t.Fatalf("%+v is read as %+v, %v", p, got, err)
		}
	})
}

func FuzzParsePurge(f *testing.F) {
	for _, s := range []string{"route:a", "path:/a", "path:host/a", "key:a b", "key:", "path:a", ":", strings.Repeat("x", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := httpcache.ParsePurge(s)
		if err == nil && (p.Validate() != nil || p.String() != s) {
			t.Errorf("%q became %+v", s, p)
		}
	})
}

// TestVariantsAreTheSameOnlyForTheSameFields draws two requests.
func TestVariantsAreTheSameOnlyForTheSameFields(t *testing.T) {
	names := []string{"A", "B"}
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SliceOfN(rapid.StringMatching(`[ab,"]{0,3}`), 0, 2)
		draw := func(label string) http.Header {
			h := http.Header{}
			for _, name := range names {
				if v := value.Draw(t, label+name); len(v) > 0 {
					h[name] = v
				}
			}
			return h
		}
		one, two := draw("one"), draw("two")
		same := slices.Equal(httpcache.AppendVariant(nil, names, one), httpcache.AppendVariant(nil, names, two))
		equal := true
		for _, name := range names {
			equal = equal && (one[name] == nil) == (two[name] == nil) && strings.Join(one[name], ",") == strings.Join(two[name], ",")
		}
		if equal && !same {
			t.Fatalf("%q and %q are taken for two", one, two)
		}
		if strings.Contains(strings.Join(append(one["A"], append(one["B"], append(two["A"], two["B"]...)...)...), ""), `"`) {
			return // quotations are compared item by item
		}
		if same && !equal {
			t.Fatalf("%q and %q are taken for one", one, two)
		}
	})
}

func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-1", "bytes=-1", "bytes=5-", "bytes=9-1", "bytes=0-0,1-1", "bytes=99999999999999999999-"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, size int) {
		o := &httpcache.Object{Status: 200, Body: make([]byte, max(0, min(size, 1000)))}
		if p, ok := o.Range(http.Header{"Range": {s}}); ok && (p.From < 0 || p.From >= p.To || p.To > len(o.Body)) {
			t.Errorf("%q of %d bytes is %+v", s, len(o.Body), p)
		}
	})
}

func FuzzNotModified(f *testing.F) {
	f.Add(`W/"a", "b"`, `"a"`)
	f.Add("*", "")
	f.Add(`"a`, `"a`)
	f.Fuzz(func(t *testing.T, condition, tag string) {
		o := &httpcache.Object{Status: 200, Header: http.Header{"Etag": {tag}}}
		if o.NotModified(http.Header{"If-None-Match": {condition}}) && !strings.Contains(condition, "*") && !strings.Contains(condition, strings.TrimPrefix(strings.TrimSpace(tag), "W/")) {
			t.Errorf("%q is in %q", tag, condition)
		}
	})
}
