package header

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestListIsTheSameAsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SampledFrom([]string{"A", "B", "Content-Type"})
		var l List
		for range rapid.IntRange(0, 6).Draw(t, "fields") {
			l = append(l, Field{names.Draw(t, "name"), rapid.StringMatching(`[a-z]{0,3}`).Draw(t, "value")})
		}
		before := http.Header{}
		for range rapid.IntRange(0, 3).Draw(t, "before") {
			before.Add(names.Draw(t, "name before"), "before")
		}
		want := before.Clone()
		for _, f := range l {
			want.Add(f.Name, f.Value)
		}
		untouched := before.Clone()
		shared := http.Header{}
		for name, values := range before {
			shared[name] = values
		}
		l.AddTo(shared)
		if diff := cmp.Diff(want, shared); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(untouched, before); diff != "" {
			t.Fatalf("the values of another map have changed: %s", diff)
		}
		for _, name := range []string{"A", "B", "Content-Type"} {
			if got, want := l.Get(name), l.Map().Get(name); got != want {
				t.Fatalf("%s is %q, in the map %q", name, got, want)
			}
		}
	})
}

func TestTokensOfAList(t *testing.T) {
	l := List{{"Connection", "close, X-A"}, {"Other", "no"}, {"Connection", " ,\tx-b "}}
	var got []string
	l.Tokens("Connection", func(token string) bool {
		got = append(got, token)
		return token != "stop"
	})
	if diff := cmp.Diff([]string{"close", "X-A", "x-b"}, got); diff != "" {
		t.Error(diff)
	}
	n := 0
	l.Tokens("Connection", func(string) bool { n++; return false })
	if n != 1 {
		t.Errorf("called %d times after false", n)
	}
}

// What a list said of one request must not be found in the next.
func TestSpaceOfAListIsEmptyWhenItIsUsedAgain(t *testing.T) {
	var pool Pool
	for range 100 {
		space := pool.Get()
		for i := range space {
			if space[i] != (Field{}) {
				t.Fatalf("it holds %v", space[i])
			}
		}
		l := List(space[:0])
		for len(l) < len(space)+1 { // the last one is elsewhere
			l = append(l, Field{"Authorization", "secret"})
		}
		pool.Put(space, len(l))
	}
}
