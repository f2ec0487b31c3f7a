package sample

import (
	"encoding/json"
	"testing"

	"github.com/keywarden/keywarden/pkg/problem"
)

// FuzzDecode holds that an accepted body is understood in one way only: written
// out from what was read, it is accepted again and means the same. A refusal is
// always the client's fault.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"id":1,"name":"n","price_cents":1,"currency":"EUR","stock":2}`))
	f.Add([]byte(`{"name":"a","name":"b"}`))
	f.Add([]byte(`{"stock":1e2} x`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var read product
		present, err := decode(body, &read)
		if err != nil {
			if kind := problem.From(err).Kind; kind != problem.Invalid {
				t.Fatalf("refused with %v, want a client error", err)
			}
			return
		}
		if len(present) > 5 {
			t.Fatalf("accepted the members %q", present)
		}
		written, err := json.Marshal(read)
		if err != nil {
			t.Fatal(err)
		}
		var again product
		if _, err := decode(written, &again); err != nil || again != read {
			t.Fatalf("%s became %+v, then %+v (%v)", body, read, again, err)
		}
	})
}
