package httpapi

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var testCursors = NewCursors([]byte("a key for tests, thirty-two long"))

func listQuery(target, name string, filters ...string) (*Query, error) {
	return testCursors.ListQuery(newCall(http.MethodGet, "/?"+target, "").Context, name, filters...)
}

func TestListQueryIsReadStrictly(t *testing.T) {
	many := make([]string, 0, 10_000)
	for i := range cap(many) {
		many = append(many, "x"+strconv.Itoa(i)+"=1")
	}
	for target, want := range map[string]struct {
		limit  int
		values map[string]string
		wrong  []string
	}{
		"":                           {DefaultLimit, map[string]string{}, nil},
		"limit=1":                    {1, map[string]string{}, nil},
		"limit=200&role=admin":       {200, map[string]string{"role": "admin"}, nil},
		"q=a%26role%3Db&role=":       {DefaultLimit, map[string]string{"q": "a&role=b", "role": ""}, nil},
		"q=%00%ff":                   {DefaultLimit, map[string]string{"q": "\x00\xff"}, nil},
		"cursor=":                    {DefaultLimit, map[string]string{}, nil},
		"limit=0":                    {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=201":                  {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=-1":                   {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=":                     {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=ten":                  {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=1.5":                  {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=1e2":                  {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=0x10":                 {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=99999999999999999999": {wrong: []string{"limit: must be a whole number from 1 to 200"}},
		"limit=1&limit=2":            {wrong: []string{"limit: is given twice"}},
		"q=a&q=a":                    {wrong: []string{"q: is given twice"}},
		"cursor=a&cursor=b":          {wrong: []string{"cursor: is given twice"}},
		"cursor=a":                   {wrong: []string{"cursor: is not a cursor of this list; start again without one"}},
		"Role=admin":                 {wrong: []string{"Role: is not a parameter of this list"}},
		"page=2&offset=3&limit=x":    {wrong: []string{"limit: must be a whole number from 1 to 200", "offset: is not a parameter of this list", "page: is not a parameter of this list"}},
		"=":                          {wrong: []string{": is not a parameter of this list"}},
		strings.Repeat("x", 500):     {wrong: []string{strings.Repeat("x", 100) + "…: is not a parameter of this list"}},
		// What the standard library would leave out without a word.
		"limit=1;q=a": {}, "q=%": {}, "q=%zz": {}, "%zz=1": {}, "role=admin&;": {},
		strings.Join(many, "&"): {},
	} {
		q, err := listQuery(target, "users", "q", "role")
		if want.limit == 0 {
			if !isInvalid(err) || want.wrong != nil && !slices.Equal(fields(err), want.wrong) || len(fields(err)) > maxNotes {
				t.Errorf("%.60q: %v %q", target, err, fields(err))
			}
			continue
		}
		if err != nil {
			t.Errorf("%.60q: %v %q", target, err, fields(err))
			continue
		}
		if diff := cmp.Diff(want.values, q.values); diff != "" || q.Limit != want.limit || q.After != "" {
			t.Errorf("%.60q: limit %d, after %q, %s", target, q.Limit, q.After, diff)
		}
	}
}

// page makes the page of a query over the numbers from first on.
func page(q *Query, first int) Page[string] {
	found := make([]int, q.Limit+1)
	for i := range found {
		found[i] = first + i
	}
	return NewPage(q, found, strconv.Itoa, func(i int) string { return fmt.Sprint("item ", i) })
}

func TestPageHasACursorWhenThereIsMore(t *testing.T) {
	q, err := listQuery("limit=2", "users")
	if err != nil {
		t.Fatal(err)
	}
	show := func(i int) string { return strconv.Itoa(i) }
	for n, want := range map[int][]string{0: {}, 1: {"0"}, 2: {"0", "1"}, 3: {"0", "1"}} {
		found := make([]int, n)
		for i := range found {
			found[i] = i
		}
		p := NewPage(q, found, strconv.Itoa, show)
		if diff := cmp.Diff(want, p.Items); diff != "" || (p.NextCursor != "") != (n > 2) {
			t.Errorf("of %d: cursor %q, %s", n, p.NextCursor, diff)
		}
		if p.NextCursor == "" {
			continue
		}
		if next, err := listQuery("limit=100&cursor="+p.NextCursor, "users"); err != nil || next.After != "1" {
			t.Errorf("%+v, %v", next, err)
		}
	}
	if p := NewPage[int, string](q, nil, nil, nil); p.Items == nil {
		t.Error("an empty page is null and not []")
	}
}

func TestCursorIsForItsListAndFiltersOnly(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "a", "b", "a&b=c", "a&b=", "&", "=", "1:", "users", "\x00", "%26"}))
	given := rapid.MapOf(rapid.SampledFrom([]string{"a", "b", "c"}), text)
	name := rapid.SampledFrom([]string{"users", "user", "users&a=a", "audit", "1:users"})
	target := func(filters map[string]string) string {
		values := url.Values{}
		for k, v := range filters {
			values.Set(k, v)
		}
		return values.Encode()
	}
	rapid.Check(t, func(t *rapid.T) {
		list, other := name.Draw(t, "list"), name.Draw(t, "other list")
		filters, others := given.Draw(t, "filters"), given.Draw(t, "other filters")
		q, err := listQuery(target(filters), list, "a", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		cursor := page(q, rapid.IntRange(0, 1000).Draw(t, "first")).NextCursor
		again, err := listQuery(target(filters)+"&cursor="+cursor, list, "a", "b", "c")
		if err != nil || again.After == "" {
			t.Fatalf("its own cursor is refused: %v", err)
		}
		_, err = listQuery(target(others)+"&cursor="+cursor, other, "a", "b", "c")
		if same := list == other && maps.Equal(filters, others); same != (err == nil) || err != nil && !isInvalid(err) {
			t.Fatalf("a cursor of %s %v in %s %v: %v", list, filters, other, others, err)
		}
	})
}

func TestDamagedCursorIsRefused(t *testing.T) {
	const list, position = "users", "01890a5d-ac96-774b-bcce-b302099a8057"
	cursor := testCursors.Encode(list, position)
	if got, err := testCursors.Decode(list, cursor); err != nil || got != position {
		t.Fatal(got, err)
	}
	bad := map[string]string{
		"of another key": NewCursors([]byte("another key")).Encode(list, position), "of another list": testCursors.Encode("user", "s"+position),
		"empty": "", "padded": cursor + "=", "newline": cursor + "\n", "newline within": cursor[:10] + "\r\n" + cursor[10:], "space": cursor + " ",
		"tag only": base64.RawURLEncoding.EncodeToString(testCursors.tag(list, "")), "longer": cursor + "AAAA",
		"long": testCursors.Encode(list, strings.Repeat("p", 1000)), "position": position, "too short": "AAAA",
		"unused bits": base64.RawURLEncoding.EncodeToString([]byte(position))[:3],
	}
	for n := range len(cursor) {
		bad[fmt.Sprintf("cut to %d", n)] = cursor[:n]
		flipped := []byte(cursor)
		if flipped[n]++; flipped[n] != cursor[n] {
			bad[fmt.Sprintf("changed at %d", n)] = string(flipped)
		}
	}
	for name, c := range bad {
		if got, err := testCursors.Decode(list, c); !isInvalid(err) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("users", testCursors.Encode("users", "position"))
	f.Add("users", testCursors.Encode("users", "\x00\xff"))
	f.Add("user", testCursors.Encode("user", "sposition"))
	f.Add("", testCursors.Encode("", "1:"))
	f.Add("users", "AAAA\n")
	f.Fuzz(func(t *testing.T, list, cursor string) {
		position, err := testCursors.Decode(list, cursor)
		if err != nil {
			if !isInvalid(err) || position != "" {
				t.Errorf("%q: %q, %v", cursor, position, err)
			}
			return
		}
		if again := testCursors.Encode(list, position); again != cursor || position == "" {
			t.Errorf("%q was never given out for %q: position %q", cursor, list, position)
		}
	})
}
