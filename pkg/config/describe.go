package config

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/keywarden/keywarden/pkg/seal"
)

// Row is the reference of one option.
type Row struct {
	Path    string   // in the file, joined by dots
	Env     string   // its variable
	Aliases []string // further variables, highest first; Env overrides them
	Type    string   // "duration", "list of text", ...
	Default string   // as it is written in YAML
	Bounds  string   // "1m to 1h", "one of json, text", or empty
	Doc     string   // what it is, in a sentence
	Secret  bool     // never printed; each of its variables has a _FILE variant
}

// Describe lists every option, in the order of the file.
func Describe() []Row {
	var rows []Row
	defaults := Default()
	for _, o := range schema().leaves() {
		rows = append(rows, Row{
			Path:    o.path,
			Env:     o.env,
			Aliases: o.aliases,
			Type:    o.typeName(),
			Default: o.yaml(defaults),
			Bounds:  o.bounds(),
			Doc:     o.doc,
			Secret:  o.secret(),
		})
	}
	return rows
}

// fileHeader opens a commented file.
const fileHeader = `Configuration of the Keywarden process: every option, what it is, its bounds and its names
in the environment.

Each of these overrides the one before: the default, this file, the environment, a flag. The
name in the environment follows from the path: tokens.access_ttl is
KEYWARDEN_TOKENS_ACCESS_TTL. Where an option has several names, the first that is set wins;
an empty variable counts as not set, and commas separate the items of a list. A secret is
better kept out of this file: each of its variables has a twin that ends in _FILE and names
a file that holds it.

A duration is written 500ms, 30s, 15m or 168h, a size 64KiB or 1MiB. A relative path starts
at the working directory. An option that does not exist is an error.`

// commentWidth is where comments wrap, indentation included.
const commentWidth = 96

// WriteYAML writes cfg as a file that [Load] reads, with or without the reference
// as comments. A secret that is set is written as a placeholder, which [Load]
// refuses, so that a printed configuration is not mistaken for a working one.
func WriteYAML(w io.Writer, cfg *Config, withComments bool) error {
	out := &yamlWriter{Writer: bufio.NewWriter(w), cfg: cfg, comments: withComments}
	if withComments {
		for line := range strings.SplitSeq(fileHeader, "\n") {
			out.line(0, strings.TrimSpace("# "+line))
		}
		out.line(0, "")
	}
	out.members(schema(), 0)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// yamlWriter writes the options. The YAML library is not used for it: the layout
// with comments, quotes and blank lines is the purpose of the file.
type yamlWriter struct {
	*bufio.Writer // keeps the first error until Flush
	cfg           *Config
	comments      bool
}

func (w *yamlWriter) line(depth int, text string) {
	if text != "" {
		text = strings.Repeat("  ", depth) + text
	}
	_, _ = w.WriteString(text + "\n")
}

// comment writes text as lines of a comment.
func (w *yamlWriter) comment(depth int, text string) {
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > commentWidth-2*depth {
			w.line(depth, line)
			line = "#"
		}
		line += " " + word
	}
	w.line(depth, line)
}

// members writes what is below a section.
func (w *yamlWriter) members(sec *option, depth int) {
	for i, o := range sec.children {
		if w.comments && i > 0 {
			w.line(0, "")
		}
		if w.comments {
			w.comment(depth, o.doc)
		}
		if o.isSection() {
			w.line(depth, o.name+":")
			w.members(o, depth+1)
			continue
		}
		if w.comments {
			w.comment(depth, o.reference())
		}
		w.line(depth, o.name+": "+o.yaml(w.cfg))
	}
}

// reference is the second sentence of an option's comment: bounds and variables.
func (o *option) reference() string {
	text := o.env
	if o.aliases != nil {
		text += " or " + strings.Join(o.aliases, ", ")
	}
	if b := o.bounds(); b != "" {
		return strings.ToUpper(b[:1]) + b[1:] + ". " + text
	}
	return text
}

// yaml is the value of o as it is written in the file.
func (o *option) yaml(cfg *Config) string {
	field := o.field(cfg)
	if !o.list {
		return o.yamlScalar(field)
	}
	items := make([]string, field.Len())
	for i := range items {
		items[i] = o.yamlScalar(field.Index(i))
	}
	return "[" + strings.Join(items, ", ") + "]"
}

// yamlScalar writes one value. Texts are always in quotes, so that none is taken
// for a number; Go's escapes are a subset of those of YAML.
func (o *option) yamlScalar(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case seal.Secret:
		if x.Empty() {
			return `""`
		}
		return strconv.Quote(redacted)
	case string:
		if o.enum != nil {
			return x
		}
		return strconv.Quote(x)
	case netip.Prefix:
		return strconv.Quote(x.String())
	case time.Duration:
		return formatDuration(x)
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	default:
		return fmt.Sprint(x)
	}
}
