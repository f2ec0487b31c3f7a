package jsonvalue_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/openapi/jsonvalue"
)

func TestRefusalsNameThePlace(t *testing.T) {
	for text, want := range map[string][2]string{
		`{"a":[1,{"b":1,"b":2}]}`: {"/a/1/b", "is given twice"},
		`{"a/b":{"~":1e999}}`:     {"/a~1b/~0", "is a number that is too long"},
		`[1,`:                     {"/1", "is not valid JSON"},
		`1 2`:                     {"", "has something after the value of JSON"},
		``:                        {"", "is not valid JSON"},
		"\"\xff\"":                {"", "is not valid UTF-8"},
		`]`:                       {"", "is not valid JSON"},
		`{"a":}`:                  {"/a", "is not valid JSON"},
	} {
		_, at, why := jsonvalue.Parse([]byte(text))
		if diff := cmp.Diff(want, [2]string{at, why}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// FuzzParse holds that what is read is what encoding/json reads.
func FuzzParse(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.50,null,true,"x"]}`, `[]`, `{"a":1,"a":2}`, `-0`, `1e5`, "\"\xff\"", `{"a":}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, _, why := jsonvalue.Parse(text)
		if why != "" {
			return
		}
		var want any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("accepted: %v", err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(again, &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
