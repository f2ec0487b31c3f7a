package traffic_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keywarden/keywarden/pkg/gateway/traffic"
	"github.com/keywarden/keywarden/pkg/problem"
)

func versionsOf(t testing.TB, c traffic.VersionsConfig, names ...string) *traffic.Versions {
	t.Helper()
	for _, name := range names {
		c.Services = append(c.Services, traffic.Version{Service: service("service-" + name), Version: name})
	}
	vs, err := traffic.NewVersions(c)
	if err != nil {
		t.Fatal(err)
	}
	return vs
}

func TestVersionsAreFoundInTheirPlace(t *testing.T) {
	media := [2]string{"application/vnd.acme.", "+json"}
	header := func(name string, values ...string) http.Header { return http.Header{name: values} }
	for _, c := range []struct {
		name   string
		config traffic.VersionsConfig
		path   string
		header http.Header
		want   string // service, or the code of the refusal
	}{
		{"path", traffic.VersionsConfig{Path: true, Prefix: "/api"}, "/api/1/users", nil, "service-1"},
		{"path without more", traffic.VersionsConfig{Path: true, Prefix: "/api"}, "/api/2", nil, "service-2"},
		{"path below the root", traffic.VersionsConfig{Path: true}, "/2/users", nil, "service-2"},
		{"path of no version", traffic.VersionsConfig{Path: true, Prefix: "/api"}, "/api/3/users", nil, "gateway.version_not_found"},
		{"path that begins like one", traffic.VersionsConfig{Path: true, Prefix: "/api"}, "/api/11/users", nil, "gateway.version_not_found"},
		{"path that ends early", traffic.VersionsConfig{Path: true, Prefix: "/api"}, "/api", nil, "gateway.version_not_found"},
		{"path by default", traffic.VersionsConfig{Path: true, Prefix: "/api", Default: "2"}, "/api/users", nil, "service-2"},

		{"header", traffic.VersionsConfig{Header: "api-version"}, "/", header("Api-Version", "1"), "service-1"},
		{"header by default", traffic.VersionsConfig{Header: "Api-Version", Default: "1"}, "/", nil, "service-1"},
		{"no header", traffic.VersionsConfig{Header: "Api-Version"}, "/", nil, "gateway.version_invalid"},
		{"header of no version", traffic.VersionsConfig{Header: "Api-Version", Default: "1"}, "/", header("Api-Version", "3"), "gateway.version_invalid"},
		{"empty header", traffic.VersionsConfig{Header: "Api-Version", Default: "1"}, "/", header("Api-Version", ""), "gateway.version_invalid"},
		{"two headers", traffic.VersionsConfig{Header: "Api-Version"}, "/", header("Api-Version", "1", "2"), "gateway.version_invalid"},

		{"accept", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "application/vnd.acme.2+json"), "service-2"},
		{"accept in capitals", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "Application/VND.Acme.2+JSON; charset=utf-8"), "service-2"},
		{"accept by weight", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "application/vnd.acme.1+json;q=0.5, application/vnd.acme.2+json;q=0.501"), "service-2"},
		{"accept, the first of as good ones", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "application/vnd.acme.2+json, application/vnd.acme.1+json"), "service-2"},
		{"accept in two lines", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "text/html", "application/vnd.acme.2+json"), "service-2"},
		{"accept a known one among unknown", traffic.VersionsConfig{MediaType: media}, "/", header("Accept", "application/vnd.acme.3+json, application/vnd.acme.1+json;q=0.1"), "service-1"},
		{"accept an unknown one or anything", traffic.VersionsConfig{MediaType: media, Default: "2"}, "/", header("Accept", "application/vnd.acme.3+json, */*;q=0.1"), "service-2"},
		{"accept an unknown one only", traffic.VersionsConfig{MediaType: media, Default: "2"}, "/", header("Accept", "application/vnd.acme.3+json"), "gateway.version_not_acceptable"},
		{"accept with weight 0", traffic.VersionsConfig{MediaType: media, Default: "2"}, "/", header("Accept", "application/vnd.acme.1+json;q=0"), "service-2"},
		{"accept within quotes", traffic.VersionsConfig{MediaType: media, Default: "2"}, "/", header("Accept", `text/plain;a=",application/vnd.acme.1+json"`), "service-2"},
		{"accept an empty version", traffic.VersionsConfig{MediaType: media, Default: "2"}, "/", header("Accept", "application/vnd.acme.+json"), "service-2"},
		{"accept nothing special", traffic.VersionsConfig{MediaType: media, Default: "1"}, "/", header("Accept", "*/*"), "service-1"},
		{"nothing accepted, no default", traffic.VersionsConfig{MediaType: media}, "/", nil, "gateway.version_not_acceptable"},
		{"body", traffic.VersionsConfig{MediaType: media}, "/", header("Content-Type", "application/vnd.acme.2+json; charset=utf-8"), "service-2"},
		{"body of no version", traffic.VersionsConfig{MediaType: media, Default: "1"}, "/", header("Content-Type", "application/vnd.acme.3+json"), "gateway.version_not_supported"},
		{"two bodies", traffic.VersionsConfig{MediaType: media}, "/", header("Content-Type", "application/vnd.acme.1+json", "application/vnd.acme.2+json"), "gateway.version_not_supported"},
		{"accept before body", traffic.VersionsConfig{MediaType: media}, "/",
			http.Header{"Accept": {"application/vnd.acme.1+json"}, "Content-Type": {"application/vnd.acme.2+json"}}, "service-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs := versionsOf(t, c.config, "1", "2")
			r, info := request("POST", c.path)
			if c.header != nil {
				r.Header = c.header
			}
			explained, why := vs.Choose(r)
			refused := vs.Check(r)
			w := httptest.NewRecorder()
			vs.ServeHTTP(w, r)
			if code, isCode := strings.CutPrefix(c.want, "gateway."); isCode {
				var doc problem.Document
				if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
					t.Fatal(err)
				}
				if doc.Code != "gateway."+code || info.Code != doc.Code || info.Service != "" {
					t.Errorf("got %d %s by service %q, want %s", w.Code, doc.Code, info.Service, c.want)
				}
				if !strings.Contains(doc.Detail, "There are: 1, 2.") || explained != "" || why != doc.Detail || refused == nil {
					t.Errorf("it is told %q, and explained as %q", doc.Detail, why)
				}
				return
			}
			if info.Service != c.want || explained != c.want || refused != nil {
				t.Errorf("got %q, explained as %q, refused with %v, want %s", info.Service, explained, refused, c.want)
			}
		})
	}
}

func TestRefusalsHaveTheStatusOfTheirPlace(t *testing.T) {
	for _, c := range []struct {
		config traffic.VersionsConfig
		header http.Header
		status int
	}{
		{traffic.VersionsConfig{Path: true}, nil, 404},
		{traffic.VersionsConfig{Header: "V"}, nil, 400},
		{traffic.VersionsConfig{MediaType: [2]string{"a/", ""}}, http.Header{"Accept": {"a/3"}}, 406},
		{traffic.VersionsConfig{MediaType: [2]string{"a/", ""}}, http.Header{"Content-Type": {"a/3"}}, 415},
	} {
		r, _ := request("GET", "/")
		r.Header = c.header
		w := httptest.NewRecorder()
		versionsOf(t, c.config, "1").ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%+v: status %d, want %d", c.config, w.Code, c.status)
		}
	}
}

func TestAnswersSayWhatTheyVaryBy(t *testing.T) {
	for _, c := range []struct {
		config traffic.VersionsConfig
		before []string
		want   []string
	}{
		{traffic.VersionsConfig{Path: true, Default: "1"}, nil, nil},
		{traffic.VersionsConfig{Header: "Api-Version", Default: "1"}, nil, []string{"Api-Version"}},
		{traffic.VersionsConfig{MediaType: [2]string{"a/", ""}, Default: "1"}, []string{"Origin"}, []string{"Origin", "Accept"}},
	} {
		r, _ := request("GET", "/")
		w := httptest.NewRecorder()
		if c.before != nil {
			w.Header()["Vary"] = c.before
		}
		versionsOf(t, c.config, "1").ServeHTTP(w, r)
		if got := w.Header()["Vary"]; !slices.Equal(got, c.want) {
			t.Errorf("%+v: Vary %q, want %q", c.config, got, c.want)
		}
	}
}

// TestDeprecatedVersionsSaySo checks the forms of RFC 9745 and RFC 8594.
func TestDeprecatedVersionsSaySo(t *testing.T) {
	day := func(s string) time.Time {
		d, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	vs, err := traffic.NewVersions(traffic.VersionsConfig{Header: "V", Services: []traffic.Version{
		{Service: service("one"), Version: "1", Deprecated: &traffic.Deprecated{Since: day("2023-06-30"), Sunset: day("2027-01-01"), Link: "https://example.com/v1"}},
		{Service: service("two"), Version: "2", Deprecated: &traffic.Deprecated{Since: day("1970-01-02")}},
		{Service: service("three"), Version: "3"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]http.Header{
		"1": {"Vary": {"V"}, "Deprecation": {"@1688083200"}, "Sunset": {"Fri, 01 Jan 2027 00:00:00 GMT"}, "Link": {`<https://example.com/v1>; rel="deprecation sunset"`}},
		"2": {"Vary": {"V"}, "Deprecation": {"@86400"}},
		"3": {"Vary": {"V"}},
	} {
		for range 2 { // the second answer shares what the first has got
			r, _ := request("GET", "/")
			r.Header.Set("V", version)
			w := httptest.NewRecorder()
			vs.ServeHTTP(w, r)
			h := w.Header()
			for name := range want {
				if !slices.Equal(h[name], want[name]) {
					t.Errorf("version %s: %s is %q, want %q", version, name, h[name], want[name])
				}
			}
			if len(h) != len(want) {
				t.Errorf("version %s: header %v", version, h)
			}
			h.Add("Link", "<x>") // as the answer of a service does
			h.Add("Vary", "y")
		}
	}
}

func TestNewVersionsRefuses(t *testing.T) {
	for name, c := range map[string]traffic.VersionsConfig{
		"nothing":         {Path: true},
		"no such default": {Path: true, Default: "2", Services: []traffic.Version{{Service: service("a"), Version: "1"}}},
		"no name":         {Path: true, Services: []traffic.Version{{Service: service("a")}}},
		"no handler":      {Path: true, Services: []traffic.Version{{Version: "1"}}},
	} {
		if _, err := traffic.NewVersions(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzAccept holds that no field makes the choice fail, and that what is chosen
// is named in it.
func FuzzAccept(f *testing.F) {
	for _, seed := range []string{
		"application/vnd.acme.1+json", "a, b;q=0.5;q=1, application/vnd.acme.2+json;q=0.001", `x;a="\",", application/vnd.acme.1+json`, ";;,,;q=", `"`, `"\`,
	} {
		f.Add(seed)
	}
	vs := versionsOf(f, traffic.VersionsConfig{MediaType: [2]string{"application/vnd.acme.", "+json"}}, "1", "2")
	f.Fuzz(func(t *testing.T, accept string) {
		r, _ := request("GET", "/")
		r.Header = http.Header{"Accept": {accept}}
		chosen, _ := vs.Choose(r)
		if version, ok := strings.CutPrefix(chosen, "service-"); ok && !strings.Contains(strings.ToLower(accept), "application/vnd.acme."+version+"+json") {
			t.Errorf("%q leads to version %s", accept, version)
		}
	})
}
