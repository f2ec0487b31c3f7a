package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v4"
)

// maxFileSize bounds the YAML file and, for the same reason, a file with a
// secret: what is larger is another file.
const maxFileSize = 1 << 20

func readConfigFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("larger than %s", Size(maxFileSize))
	}
	return data, nil
}

// reason is an error about a file without the name of the file.
func reason(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// readFile is the layer of the YAML file.
func (l *loader) readFile(path string, read func(string) ([]byte, error)) {
	data, err := read(path)
	if err != nil {
		l.fail(Origin{Layer: LayerFile, Name: path}, "", "cannot be read: "+reason(err).Error(), err)
		return
	}
	f := fileReader{loader: l, name: path}
	if doc := f.parse(data); doc != nil {
		f.section(l.schema, doc)
	}
}

// fileReader walks the nodes of one YAML file along the schema. It does so
// itself, rather than decode into the struct, to report all mistakes, each with
// its place, and never a value that may be secret.
type fileReader struct {
	*loader
	name string
}

// at is the place of a node.
func (f *fileReader) at(n *yaml.Node) Origin {
	return Origin{Layer: LayerFile, Name: f.name, Line: n.Line, Column: n.Column}
}

// parse returns the root of the only document, or nil when there is none.
func (f *fileReader) parse(data []byte) *yaml.Node {
	decoder, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		f.syntax(err)
		return nil
	}
	var doc, next yaml.Node
	if err := decoder.Load(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // a file of comments sets nothing
			f.syntax(err)
		}
		return nil
	}
	switch err := decoder.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		f.syntax(err)
	default:
		f.fail(f.at(&next), "", "only one document is allowed in the file", nil)
	}
	if len(doc.Content) != 1 {
		return nil
	}
	return doc.Content[0]
}

// syntax reports a file that is no YAML. Only the messages of the scanner and
// the parser are repeated; those of later stages quote the file, where an
// unquoted secret may be what is wrong.
func (f *fileReader) syntax(err error) {
	at := Origin{Layer: LayerFile, Name: f.name}
	detail := "is not valid YAML"
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		at.Line, at.Column = e.Mark.Line, e.Mark.Column
		switch e.Stage {
		case yaml.ScannerStage, yaml.ParserStage:
			detail += ": " + e.Message
		case yaml.ReaderStage:
			detail += ": not UTF-8, or with control characters"
		case yaml.ComposerStage:
			detail += ": an alias without its anchor; put a text that begins with * in quotes"
		}
	}
	f.fail(at, "", detail, nil)
}

// namePattern is what a person may have meant as a name. Any other key is not
// repeated in a message: it can be a secret with its own name forgotten.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// maxName bounds such a name, in bytes.
const maxName = 40

// section reads a mapping whose keys are the members of sec.
func (f *fileReader) section(sec *option, n *yaml.Node) {
	if isNull(n) { // all of its lines are comments
		return
	}
	if n.Kind != yaml.MappingNode {
		f.fail(f.at(n), sec.path, "must be a section with options below it", nil)
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content) && !f.full(); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			f.fail(f.at(key), sec.path, "must have names of options as its keys", nil)
			continue
		}
		if len(key.Value) > maxName || !namePattern.MatchString(key.Value) {
			f.fail(f.at(key), sec.path, "has a key here that cannot be the name of an option", nil)
			continue
		}
		if line, twice := lines[key.Value]; twice {
			f.fail(f.at(key), join(sec, key.Value), fmt.Sprintf("is given twice, first in line %d", line), nil)
			continue
		}
		lines[key.Value] = key.Line
		f.member(sec, key, val)
	}
}

// member reads one key of a section with its value.
func (f *fileReader) member(sec *option, key, val *yaml.Node) {
	switch o := sec.child(key.Value); {
	case o == nil:
		f.unknown(sec, key)
	case o.isSection():
		f.section(o, val)
	case o.list:
		f.list(o, val)
	default:
		if f.accepts(o, val) {
			f.setText(o, value{val.Value, f.at(val)})
		}
	}
}

// unknown reports a key that is no member of its section.
func (f *fileReader) unknown(sec *option, key *yaml.Node) {
	path, known := join(sec, key.Value), f.schema.paths()
	if slices.Contains(known, path) { // "server.addr:" in place of addr below server
		f.fail(f.at(key), path, "must be written as a section with the option below it, not joined by a dot", nil)
		return
	}
	f.fail(f.at(key), path, "unknown option"+suggest(path, known), nil)
}

func join(sec *option, name string) string {
	if sec.path == "" {
		return name
	}
	return sec.path + "." + name
}

// list reads a sequence.
func (f *fileReader) list(o *option, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		f.refuse(o, f.at(n), "must be a list, such as [] or [a, b]", nil)
		return
	}
	items, ok := make([]value, 0, len(n.Content)), true
	for _, item := range n.Content {
		if f.full() {
			return
		}
		ok = f.accepts(o, item) && ok
		items = append(items, value{item.Value, f.at(item)})
	}
	if ok {
		f.setList(o, items, f.at(n))
	}
}

// accepts reports whether the YAML type of n fits o, and a mistake otherwise:
// text where text is meant, not a number that happens to read as one.
func (f *fileReader) accepts(o *option, n *yaml.Node) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		f.refuse(o, f.at(n), "must be a value of its own, aliases are not supported", nil)
	case n.Kind != yaml.ScalarNode:
		f.refuse(o, f.at(n), "must be one "+o.elemName()+", not a list or a section", nil)
	case isNull(n):
		f.refuse(o, f.at(n), `has no value; write "" for an empty text, or remove the line for the default`, nil)
	case !slices.Contains(o.tags(), n.ShortTag()):
		f.refuse(o, f.at(n), o.tagComplaint(), nil)
	default:
		return true
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// tags lists the YAML types of a value of o. A duration and a size are text,
// except for 0.
func (o *option) tags() []string {
	switch o.elem {
	case reflect.TypeFor[bool]():
		return []string{"!!bool"}
	case reflect.TypeFor[int]():
		return []string{"!!int"}
	case reflect.TypeFor[float64]():
		return []string{"!!float", "!!int"}
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[Size]():
		return []string{"!!str", "!!int"}
	default:
		return []string{"!!str"}
	}
}

// tagComplaint says which YAML type is meant.
func (o *option) tagComplaint() string {
	switch o.elem {
	case reflect.TypeFor[bool]():
		return "must be true or false, without quotes"
	case reflect.TypeFor[int]():
		return "must be a whole number, without quotes"
	case reflect.TypeFor[float64]():
		return "must be a number, without quotes"
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[Size]():
		return "must be a " + o.elemName() + " with its unit"
	default:
		return "must be text; put it in quotes"
	}
}
