package quotaapi

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keywarden/keywarden/pkg/spec/policies"
)

// What accounts can be of is said in three places of this package, and by the policies.
func TestKindsAreThoseThatAreDocumented(t *testing.T) {
	for _, v := range []any{Account{}, Event{}} {
		field, _ := reflect.TypeOf(v).FieldByName("By")
		if diff := cmp.Diff(kinds(), strings.Split(field.Tag.Get("enums"), ",")); diff != "" {
			t.Errorf("%T: %s", v, diff)
		}
	}
	field, _ := reflect.TypeFor[policies.Subject]().FieldByName("By")
	known := map[string]bool{}
	for _, k := range kinds() {
		known[k] = true
	}
	for _, by := range strings.Split(field.Tag.Get("enum"), ",") {
		if !known[by] {
			t.Errorf("a quota can go by %s, which cannot be asked for", by)
		}
	}
}
