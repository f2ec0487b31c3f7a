// Package dialect teaches the compiler of schemas what OpenAPI and ECMA-262 write
// otherwise than it does: formats of numbers, and patterns.
package dialect

import (
	"encoding/json"
	"errors"
	"math/big"
	"regexp"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var errRange = errors.New("is out of range")

// RegisterFormats adds the formats of OpenAPI that bound a number. Formats that are
// not known say nothing.
func RegisterFormats(c *jsonschema.Compiler) {
	for name, bits := range map[string]uint{"int32": 32, "int64": 64} {
		c.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(v any) error {
			n, ok := v.(json.Number)
			if !ok {
				return nil
			}
			r, ok := new(big.Rat).SetString(n.String())
			most := new(big.Int).Lsh(big.NewInt(1), bits-1)
			if !ok || !r.IsInt() || r.Num().Cmp(most) >= 0 || r.Num().Cmp(new(big.Int).Neg(most)) < 0 {
				return errRange
			}
			return nil
		}})
	}
}

// unicodeEscape is the one frequent escape of ECMA-262 that RE2 writes otherwise; a
// backslash that is escaped begins none.
var unicodeEscape = regexp.MustCompile(`\\\\|\\u([0-9A-Fa-f]{4})`)

// CompilePattern compiles a pattern of ECMA-262 as RE2, of which the time is linear.
// What RE2 does not have, such as looking ahead, is refused.
func CompilePattern(text string) (jsonschema.Regexp, error) {
	text = unicodeEscape.ReplaceAllStringFunc(text, func(escape string) string {
		if len(escape) == 2 { //nolint:mnd // two backslashes
			return escape
		}
		return `\x{` + escape[2:] + `}`
	})
	return regexp.Compile(text)
}
