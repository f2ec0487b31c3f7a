package allowmethods_test

import (
	"net/http/httptest"
	"testing"

	"github.com/keywarden/keywarden/pkg/gateway/policy/allowmethods"
	"github.com/keywarden/keywarden/pkg/problem"
)

func TestOnlyNamedMethodsPass(t *testing.T) {
	step, err := allowmethods.New([]string{"GET", "POST"})
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]bool{"GET": true, "POST": true, "PUT": false, "get": false, "HEAD": false} {
		err := step.Check(httptest.NewRequest(method, "/", nil))
		if (err == nil) != want {
			t.Errorf("%s: %v", method, err)
		}
		if p := problem.From(err); err != nil && (p.Status() != 405 || p.Allow != "GET, POST") {
			t.Errorf("%s: refused with %d, Allow %q", method, p.Status(), p.Allow)
		}
	}
	if _, err := allowmethods.New(nil); err == nil {
		t.Error("a route for no method is accepted")
	}
}

func BenchmarkCheck(b *testing.B) {
	step, err := allowmethods.New([]string{"GET", "HEAD", "POST"})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("POST", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		if err := step.Check(r); err != nil {
			b.Fatal(err)
		}
	}
}
