package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/problem"
	"github.com/keywarden/keywarden/pkg/seal"
)

// form is a body with a field of every kind.
type form struct {
	Name   string             `json:"name"`
	Count  int64              `json:"count"`
	Small  int8               `json:"small"`
	On     bool               `json:"on"`
	Tags   []string           `json:"tags"`
	Inner  inner              `json:"inner"`
	Inners []inner            `json:"inners"`
	Ptr    *inner             `json:"ptr"`
	Free   map[string]any     `json:"free"`
	Secret seal.Secret        `json:"secret"`
	End    Optional[string]   `json:"end"`
	Ends   []Optional[string] `json:"ends"`
	Own    string             // has no name in JSON
	Hidden string             `json:"-"`
	Empty  string             `json:"empty,omitempty"`
}

type inner struct {
	Deep  string   `json:"deep"`
	Inner []*inner `json:"inner"`
}

func TestStrictBodyIsDecoded(t *testing.T) {
	text := "t"
	for body, want := range map[string]form{
		`{}`:          {},
		" \t\r\n{}\n": {},
		`{"name":"n","count":5,"small":-128,"on":true,"tags":["a","b"],"empty":"e"}`: {
			Name: "n", Count: 5, Small: -128, On: true, Tags: []string{"a", "b"}, Empty: "e",
		},
		`{"name":null,"count":null,"tags":null,"ptr":null}`:                        {},
		`{"inner":{"deep":"d"},"inners":[{"deep":"x"},{}],"ptr":{"inner":[null]}}`: {Inner: inner{Deep: "d"}, Inners: []inner{{Deep: "x"}, {}}, Ptr: &inner{Inner: []*inner{nil}}},
		`{"free":{"any":{"thing":[1]},"Any":2}}`:                                   {Free: map[string]any{"any": map[string]any{"thing": []any{1.0}}, "Any": 2.0}},
		`{"secret":"s"}`:                                                           {Secret: seal.NewSecret("s")},
		`{"end":"t"}`:                                                              {End: Optional[string]{Given: true, Value: &text}},
		`{"end":null}`:                                                             {End: Optional[string]{Given: true}},
		`{"n\u0061me":"\ud83d\ude00"}`:                                             {Name: "😀"},
		`{"count":9223372036854775807}`:                                            {Count: 1<<63 - 1},
	} {
		var got form
		if err := DecodeStrict([]byte(body), &got); err != nil {
			t.Errorf("%s: %v %v", body, err, fields(err))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

func TestWrongBodyNamesWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for body, want := range map[string][]string{
		`{"nam":"n"}`:                          {"nam: is not a known field"},
		`{"Name":"n"}`:                         {"Name: is not a known field"},
		`{"NAME":"n","name":"n"}`:              {"NAME: is not a known field"},
		`{"Own":"n"}`:                          {"Own: is not a known field"},
		`{"Hidden":"n"}`:                       {"Hidden: is not a known field"},
		`{"-":"n"}`:                            {"-: is not a known field"},
		`{"":"n"}`:                             {": is not a known field"},
		`{"__proto__":{},"role":"admin"}`:      {"__proto__: is not a known field", "role: is not a known field"},
		`{"name":"a","name":"b"}`:              {"name: is given twice"},
		`{"name":"a","n\u0061me":"b"}`:         {"name: is given twice"},
		`{"inner":{"deep":"a","deep":"b"}}`:    {"inner.deep: is given twice"},
		`{"inner":{"Deep":"a"}}`:               {"inner.Deep: is not a known field"},
		`{"inners":[{},{"deeper":"a"}]}`:       {"inners[1].deeper: is not a known field"},
		`{"ptr":{"inner":[{"x":1}]}}`:          {"ptr.inner[0].x: is not a known field"},
		`{"free":{"a":{"b":[{"c":1,"c":2}]}}}`: {"free.a.b[0].c: is given twice"},
		`{"other":{"a":1,"a":2}}`:              {"other: is not a known field", "other.a: is given twice"},
		`{"` + long + `":1}`:                   {long[:100] + "…: is not a known field"},
		`{"name":5}`:                           {"name: must be a string, not number"},
		`{"name":{}}`:                          {"name: must be a string, not object"},
		`{"name":["a"]}`:                       {"name: must be a string, not array"},
		`{"name":true}`:                        {"name: must be a string, not bool"},
		`{"count":"5"}`:                        {"count: must be a whole number in range, not string"},
		`{"count":1.5}`:                        {"count: must be a whole number in range, not number 1.5"},
		`{"count":1e3}`:                        {"count: must be a whole number in range, not number 1e3"},
		`{"count":9223372036854775808}`:        {"count: must be a whole number in range, not number 9223372036854775808"},
		`{"small":128}`:                        {"small: must be a whole number in range, not number 128"},
		`{"on":"true"}`:                        {"on: must be true or false, not string"},
		`{"on":1}`:                             {"on: must be true or false, not number"},
		`{"tags":"a"}`:                         {"tags: must be an array, not string"},
		`{"tags":{}}`:                          {"tags: must be an array, not object"},
		`{"inner":"a"}`:                        {"inner: must be an object, not string"},
		`{"tags":["a",1]}`:                     {"tags: each element must be a string, not number"},
		`{"tags":[[]]}`:                        {"tags: each element must be a string, not array"},
		`{"inners":[1]}`:                       {"inners: each element must be an object, not number"},
		`{"inners":[{},{"deep":1}]}`:           {"inners.deep: must be a string, not number"},
		`{"inners":{}}`:                        {"inners: must be an array, not object"},
		`{"ptr":{"inner":[{"inner":[1]}]}}`:    {"ptr.inner.inner: each element must be an object, not number"},
		`{"ends":["a",1]}`:                     {"ends: each element must be a string, not number"},
		`{"inner":{"deep":1}}`:                 {"inner.deep: must be a string, not number"},
		`{"free":[]}`:                          {"free: must be an object, not array"},
		`{"secret":5}`:                         {"secret: must be a string, not number"},
		`{"secret":{"value":"s"}}`:             {"secret: must be a string, not object"},
		`{"secret":["s"]}`:                     {"secret: must be a string, not array"},
		`{"end":5}`:                            {"end: must be a string, not number"},
		`{"end":{"Given":true}}`:               {"end: must be a string, not object"},
	} {
		var got form
		err := DecodeStrict([]byte(body), &got)
		said := fields(err)
		for i := range said {
			said[i], _, _ = strings.Cut(said[i], ", did you mean ")
		}
		if !isInvalid(err) || !slices.Equal(said, want) {
			t.Errorf("%.80s\n got %q (%v)\nwant %q", body, fields(err), err, want)
		}
	}
}

func TestMistypedNameIsAnsweredWithTheRightOne(t *testing.T) {
	var got form
	err := DecodeStrict([]byte(`{"nam":"n"}`), &got)
	if want := []string{"nam: is not a known field, did you mean name?"}; !slices.Equal(fields(err), want) {
		t.Errorf("%q", fields(err))
	}
}

func TestBodyThatIsNoObjectIsRefused(t *testing.T) {
	for body, detail := range map[string]string{
		"": "ends too early", " ": "ends too early", "{": "ends too early", `{"name"`: "ends too early", `{"name":`: "ends too early",
		`{"name":"a"`: "ends too early", `{"name":"a`: "ends too early", `{"tags":["a"`: "ends too early",
		"null": "must be a JSON object", "[]": "must be a JSON object", `"a"`: "must be a JSON object", "1": "must be a JSON object",
		"true": "must be a JSON object", "[{}]": "must be a JSON object",
		"{} {}": "something after", "{}}": "something after", "{}x": "something after", "{},": "something after", "{}\x00": "something after",
		`{"name":"a"}[]`: "something after",
		"x":              "near byte", "{name:1}": "near byte", `{"name":'a'}`: "near byte", `{"name":"a",}`: "near byte", `{"name" "a"}`: "near byte",
		`{"count":01}`: "near byte", `{"count":+1}`: "near byte", `{"count":NaN}`: "near byte", `{"tags":["a",]}`: "near byte",
		`{"tags":["a" "b"]}`: "near byte", "{\"name\":\"a\nb\"}": "near byte", `{"name":"\x"}`: "near byte", "\ufeff{}": "near byte",
		`{/**/}`: "near byte", `{"tags":]}`: "near byte", `{"tags":[}`: "near byte",
		"{\"name\":\"\xff\"}": "not valid UTF-8", "\xff": "not valid UTF-8", "{\"name\":\"\xed\xa0\x80\"}": "not valid UTF-8",
	} {
		var got form
		err := DecodeStrict([]byte(body), &got)
		if !isInvalid(err) || !strings.Contains(problem.From(err).Detail, detail) {
			t.Errorf("%q: %v, %q, want %q", body, err, problem.From(err).Detail, detail)
		}
	}
}

// nested is a body whose field free has brackets n levels deep.
func nested(n int, open, shut, core string) string {
	return `{"free":{"a":` + strings.Repeat(open, n) + core + strings.Repeat(shut, n) + `}}`
}

func TestDepthIsBounded(t *testing.T) {
	var got form
	for body, want := range map[string]bool{
		nested(maxDepth-2, "[", "]", ""):        true,
		nested(maxDepth-1, "[", "]", ""):        false,
		nested(maxDepth-2, `{"a":`, "}", "1"):   true,
		nested(maxDepth-1, `{"a":`, "}", "1"):   false,
		nested(maxDepth-1, `[{"a":`, "}]", "1"): false,
		nested(100_000, "[", "]", ""):           false,
		nested(100_000, "[", "", ""):            false,
		nested(100_000, `{"a":`, "", ""):        false,
		strings.Repeat("[", 100_000):            false,
		strings.Repeat(`{"name":`, 100_000):     false,
	} {
		if err := DecodeStrict([]byte(body), &got); (err == nil) != want || err != nil && !isInvalid(err) {
			t.Errorf("%.60s…: %v", body, err)
		}
	}
}

// allocated is the memory that work takes from the heap, in bytes.
func allocated(work func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestHostileBodyCostsInProportionToItsSize(t *testing.T) {
	const size = 1 << 18
	const bound = 300 * size
	half := strings.Repeat("n", size/2)
	for name, body := range map[string]string{
		"brackets":                 strings.Repeat("[", size),
		"brackets in an object":    `{"a":` + strings.Repeat("[", size),
		"objects":                  strings.Repeat(`{"a":`, size/5),
		"long name over a list":    `{"` + half + `":[` + strings.Repeat("0,", size/4) + `0]}`,
		"long name over members":   `{"` + half + `":{` + strings.Repeat(`"":0,`, size/10) + `"":0}}`,
		"long name over lists":     `{"` + half + `":[` + strings.Repeat("[],", size/6) + `0]}`,
		"long names, one in other": `{"` + half + `":{"` + half[:size/4] + `":{"` + half[:size/8] + `":[` + strings.Repeat("0,", size/16) + `0]}}}`,
		"unknown names":            `{` + unknownNames(size/10) + `"name":""}`,
		"the same name":            `{` + strings.Repeat(`"a":0,`, size/6) + `"a":0}`,
		"long number":              `{"count":` + strings.Repeat("9", size) + `}`,
		"long text":                `{"name":"` + strings.Repeat(`\u0000`, size/6) + `"}`,
		"long list":                `{"tags":[` + strings.Repeat(`"",`, size/3) + `""]}`,
		"wrong list":               `{"tags":[` + strings.Repeat(`1,`, size/2) + `1]}`,
		"blanks":                   strings.Repeat(" ", size) + "{}",
	} {
		var err error
		cost := allocated(func() {
			var got form
			err = DecodeStrict([]byte(body), &got)
		})
		if cost > bound {
			t.Errorf("%s: %d MiB for %d KiB", name, cost>>20, len(body)>>10)
		}
		if err == nil {
			continue
		}
		answer, marshalErr := json.Marshal(problem.From(err).Document(""))
		if marshalErr != nil || len(answer) > 8<<10 || len(problem.From(err).Fields) > maxNotes {
			t.Errorf("%s: an answer of %d bytes with %d fields, %v", name, len(answer), len(problem.From(err).Fields), marshalErr)
		}
	}
}

func unknownNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%06d":0,`, i)
	}
	return b.String()
}

func TestBindNeedsJSON(t *testing.T) {
	for media, want := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "Application/JSON": true, "application/json;": true,
		"": false, "text/plain": false, "application/x-www-form-urlencoded": false, "multipart/form-data": false, "text/json": false,
		"application/problem+json": false, "application/json, text/plain": false, "application/jsonp": false, "json": false, "*/*": false,
		"application/json; charset": false,
	} {
		c := newCall(http.MethodPost, "/", `{"name":"n"}`)
		c.Request.Header.Set("Content-Type", media)
		var got form
		err := Bind(c.Context, &got)
		if (err == nil) != want || want != (got.Name == "n") {
			t.Errorf("%q: %v", media, err)
		}
		if err != nil && (!errors.Is(err, ErrMediaType) || problem.From(err).Kind.Status() != http.StatusUnsupportedMediaType) {
			t.Errorf("%q: %v", media, err)
		}
	}
}

func TestBindTellsTooLongFromBroken(t *testing.T) {
	bind := func(body io.ReadCloser) error {
		c := newCall(http.MethodPost, "/", "")
		c.Request.Header.Set("Content-Type", "application/json")
		c.Request.Body = body
		var got form
		return Bind(c.Context, &got)
	}
	var tooLarge *http.MaxBytesError
	if err := bind(http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(`{"name":"n"}`)), 5)); !errors.As(err, &tooLarge) {
		t.Errorf("error %v", err)
	}
	if err := bind(io.NopCloser(io.MultiReader(strings.NewReader(`{"name":`), brokenReader{}))); !isInvalid(err) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestTimeIsRFC3339(t *testing.T) {
	for text, want := range map[string]bool{
		"2030-01-31T12:00:00Z": true, "2030-01-31T12:00:00.123456+02:00": true, "": false, "2030-01-31": false, "2030-02-31T12:00:00Z": false,
		"1893499200": false, "2030-01-31T12:00:00": false, "31 Jan 2030": false,
	} {
		_, err := ParseTime("expires_at", text)
		if (err == nil) != want || err != nil && (!isInvalid(err) || problem.From(err).Fields[0].Field != "expires_at") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzDecodeStrict(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"name":"n","count":5,"small":-128,"on":true,"tags":["a"],"inner":{"deep":"d"},"inners":[{}],"ptr":{"inner":[null]}}`,
		`{"free":{"any":{"thing":[1e400]}},"secret":"s","end":null,"ends":["a",null]}`, `{"name":"a","name":"b"}`, `{"Name":"a"}`, `{} {}`,
		`{"n\u0061me":"\ud800"}`, `{"count":1e3}`, nested(30, "[", "]", ""), "{\"name\":\"\xff\"}", `{"name":"` + "\u2028" + `"}`, `{"end":{}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want form
		err := DecodeStrict(body, &got)
		if err != nil {
			if !isInvalid(err) {
				t.Errorf("%q: %v", body, err)
			}
			return
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&want); err != nil || decoder.More() {
			t.Errorf("%q: accepted, but encoding/json says %v", body, err)
		}
		same := cmp.AllowUnexported(form{}, inner{})
		if diff := cmp.Diff(want, got, same, cmp.Comparer(func(a, b seal.Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
			t.Errorf("%q: %s", body, diff)
		}
	})
}
