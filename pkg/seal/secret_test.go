package seal_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"html/template"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/keywarden/keywarden/pkg/seal"
)

const value = "hunter2-hunter2"

// spellings are the forms in which a printer could show the value.
var spellings = []string{
	value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), fmt.Sprintf("% x", value), fmt.Sprintf("%d", []byte(value)),
	strings.Trim(fmt.Sprintf("%d", []byte(value)), "[]"), fmt.Sprintf("%#v", []byte(value)), "aHVudGVyMi1odW50ZXIy",
}

func shows(text string) bool {
	for _, s := range spellings {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

type inner struct{ hidden seal.Secret }

// holder has a secret in every place where printers look.
type holder struct {
	Public  seal.Secret            `json:"public" yaml:"public"`
	Pointer *seal.Secret           `json:"pointer" yaml:"pointer"`
	List    []seal.Secret          `json:"list" yaml:"list"`
	Array   [1]seal.Secret         `json:"array" yaml:"array"`
	Map     map[string]seal.Secret `json:"map" yaml:"map"`
	Any     any                    `json:"any" yaml:"any"`
	Deep    *holder                `json:"deep,omitempty" yaml:"deep,omitempty"`

	private  seal.Secret
	pointer  *seal.Secret
	list     []seal.Secret
	array    [1]seal.Secret
	byName   map[string]seal.Secret
	bySecret map[seal.Secret]int
	any      any
	inner    inner
	inners   []inner
}

func fill(s seal.Secret, deep *holder) *holder {
	return &holder{
		Public: s, Pointer: &s, List: []seal.Secret{s}, Array: [1]seal.Secret{s},
		Map: map[string]seal.Secret{"k": s}, Any: s, Deep: deep,
		private: s, pointer: &s, list: []seal.Secret{s}, array: [1]seal.Secret{s},
		byName: map[string]seal.Secret{"k": s}, bySecret: map[seal.Secret]int{s: 1}, any: s,
		inner: inner{s}, inners: []inner{{s}},
	}
}

// carriers are values that hold the secret.
func carriers() map[string]any {
	s := seal.NewSecret(value)
	h := fill(s, fill(s, nil))
	var nested any = &s
	return map[string]any{
		"value": s, "pointer": &s, "pointer to pointer": &nested, "struct": *h, "pointer to struct": h,
		"slice": []seal.Secret{s}, "map": map[string]seal.Secret{"k": s}, "map key": map[seal.Secret]string{s: "v"},
		"slice of any": []any{s, &s, h}, "unexported field": inner{s}, "pointer to unexported field": &inner{s},
	}
}

func TestSecretIsRedactedByEveryVerb(t *testing.T) {
	s := seal.NewSecret(value)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%c", "%U", "%10.3s", "%z"} {
		for _, v := range []any{s, &s} {
			if got := fmt.Sprintf(verb, v); got != "[redacted]" {
				t.Errorf("Sprintf(%q, %T) = %q", verb, v, got)
			}
		}
	}
	for name, got := range map[string]string{
		"Sprint": fmt.Sprint(s), "String": s.String(), "GoString": s.GoString(), "Sprintln": strings.TrimSpace(fmt.Sprintln(s)),
	} {
		if got != "[redacted]" {
			t.Errorf("%s gives %q", name, got)
		}
	}
}

// fmt calls no methods of what is in unexported fields, nor under the verbs %p
// and %w, so there it must find nothing to print.
func TestSecretIsNeverPrinted(t *testing.T) {
	for name, v := range carriers() {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%c", "%p", "%w", "%t", "%z", "%!", "%"} {
			if got := fmt.Sprintf(verb, v); shows(got) {
				t.Errorf("Sprintf(%q, %s) shows it: %s", verb, name, got)
			}
			if got := fmt.Errorf(verb, v).Error(); shows(got) {
				t.Errorf("Errorf(%q, %s) shows it: %s", verb, name, got)
			}
		}
		for format, got := range map[string]string{
			"Sprint": fmt.Sprint(v), "Sprintln": fmt.Sprintln(v), "an argument too many": fmt.Sprintf("%d", append([]any{1}, v)...),
		} {
			if shows(got) {
				t.Errorf("%s of %s shows it: %s", format, name, got)
			}
		}
	}
}

func TestSecretIsNeverMarshalled(t *testing.T) {
	marshallers := map[string]func(any) ([]byte, error){
		"json": json.Marshal,
		"yaml": func(v any) ([]byte, error) { return yaml.Marshal(v) },
	}
	for name, v := range carriers() {
		for format, marshal := range marshallers {
			got, err := marshal(v)
			if err != nil {
				t.Errorf("%s of %s: %v", format, name, err)
			}
			if shows(string(got)) {
				t.Errorf("%s of %s shows it: %s", format, name, got)
			}
		}
	}
	s := seal.NewSecret(value)
	for format, marshal := range marshallers {
		var read string
		got, err := marshal(s)
		if err != nil || yaml.Unmarshal(got, &read) != nil || read != "[redacted]" { // JSON is YAML
			t.Errorf("%s gives %s, %v", format, got, err)
		}
	}
	if got, err := xml.Marshal(s); err != nil || shows(string(got)) || !strings.Contains(string(got), "[redacted]") {
		t.Errorf("xml gives %s, %v", got, err)
	}
	var page bytes.Buffer
	if err := template.Must(template.New("").Parse(`{{.}} <a b="{{.}}">`)).Execute(&page, s); err != nil || shows(page.String()) {
		t.Errorf("a template gives %s, %v", &page, err)
	}
}

func TestSecretIsNeverLogged(t *testing.T) {
	for name, v := range carriers() {
		var out bytes.Buffer
		for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
			log := slog.New(h)
			log.Info("message", "value", v)
			log.With("value", v).WithGroup("group").Error("message", slog.Any("inside", v), slog.Group("more", "value", v))
		}
		if shows(out.String()) {
			t.Errorf("the log shows %s: %s", name, &out)
		}
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "value", seal.NewSecret(value))
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "value", seal.NewSecret(value))
	if got := strings.Count(out.String(), "[redacted]"); got != 2 {
		t.Errorf("two handlers wrote [redacted] %d times: %s", got, &out)
	}
}

func TestSecretIsReadFromJSONAndYAML(t *testing.T) {
	var read struct {
		S seal.Secret `json:"s" yaml:"s"`
	}
	if err := json.Unmarshal([]byte(`{"s": "`+value+`"}`), &read); err != nil || read.S.Reveal() != value {
		t.Errorf("json: %q, %v", read.S.Reveal(), err)
	}
	read.S = seal.Secret{}
	if err := yaml.Unmarshal([]byte("s: "+value), &read); err != nil || read.S.Reveal() != value {
		t.Errorf("yaml: %q, %v", read.S.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"s": 7}`), &read); err == nil {
		t.Error("a number was taken for a secret")
	}
}

func TestSecretComparesByValue(t *testing.T) {
	s := seal.NewSecret(value)
	if !s.Equal(value) || s.Equal(value+"x") || s.Equal(value[:len(value)-1]) || s.Equal("") {
		t.Error("Equal is wrong")
	}
	var none seal.Secret
	if !none.Equal("") || !none.Empty() || none.Reveal() != "" || !seal.NewSecret("").Empty() || s.Empty() {
		t.Error("the empty secret is not empty")
	}
	if err := s.UnmarshalText(nil); err != nil || !s.Empty() {
		t.Error("reading nothing leaves the old value")
	}
}

func TestReadingIntoACopyLeavesTheOriginal(t *testing.T) {
	s := seal.NewSecret(value)
	changed := s
	if err := changed.UnmarshalText([]byte("other")); err != nil || s.Reveal() != value || changed.Reveal() != "other" {
		t.Errorf("original %q, copy %q, %v", s.Reveal(), changed.Reveal(), err)
	}
}
