package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
)

// Source is where a configuration is read from. The zero Source gives the
// defaults.
type Source struct {
	// File is the path of the YAML file; empty for none.
	File string
	// Lookup finds a variable of the environment, as os.LookupEnv does. A
	// variable that is empty counts as not set, which is what a compose file
	// makes of one that it only passes on. Nil means no environment.
	Lookup func(name string) (string, bool)
	// Environ lists the variables that are set, as os.Environ does or by name
	// alone, so that a mistyped KEYWARDEN_ name is noticed.
	Environ []string
	// Reserved lists KEYWARDEN_ variables that are no options but that the
	// caller reads itself, such as the path of the file.
	Reserved []string
	// Flags maps option paths to values in the syntax of the environment. Here
	// an empty value counts: it makes a text empty and a list have no items.
	Flags map[string]string
	// Serving demands also what only serving needs: a master key where the
	// database is an external one.
	Serving bool
}

// Load reads all layers of src. The error is of type [Errors] and holds every
// mistake, not just the first.
func Load(src Source) (*Config, error) {
	return load(src, readConfigFile)
}

// load is [Load] with the way to read the file.
func load(src Source, read func(path string) ([]byte, error)) (*Config, error) {
	if src.Lookup == nil {
		src.Lookup = func(string) (string, bool) { return "", false }
	}
	l := &loader{
		schema:  schema(),
		cfg:     Default(),
		origins: map[string]Origin{},
		failed:  map[string]bool{},
	}
	if src.File != "" {
		l.readFile(src.File, read)
	}
	l.readEnvironment(src)
	l.readFlags(src.Flags)
	l.checkRules(src)
	if len(l.errs) > 0 {
		return nil, l.errs.sorted()
	}
	return l.cfg, nil
}

// loader collects the values and the mistakes of one [Load].
type loader struct {
	schema  *option
	cfg     *Config
	origins map[string]Origin // by path: who set the value that is in cfg
	failed  map[string]bool   // by path: a value was refused, so what is in cfg is not what was meant
	errs    Errors
}

// value is one text and its place.
type value struct {
	text string
	at   Origin
}

// fail notes a mistake, up to the bound of the report.
func (l *loader) fail(at Origin, path, detail string, cause error) {
	switch {
	case len(l.errs) < maxErrors:
		l.errs = append(l.errs, &Error{Origin: at, Path: path, Detail: detail, cause: cause})
	case len(l.errs) == maxErrors:
		l.errs = append(l.errs, &Error{Detail: fmt.Sprintf("more than %d mistakes, the rest is not shown", maxErrors)})
	}
}

// full reports whether further mistakes would not be shown.
func (l *loader) full() bool { return len(l.errs) > maxErrors }

// refuse notes that the value of o at a place is not accepted.
func (l *loader) refuse(o *option, at Origin, detail string, cause error) {
	l.failed[o.path] = true
	l.fail(at, o.path, detail, cause)
}

// setText gives a single option its value.
func (l *loader) setText(o *option, v value) {
	target := reflect.New(o.elem).Elem()
	if err := o.parse(v.text, target); err != nil {
		l.refuse(o, v.at, o.complain(err, v.text), err)
		return
	}
	o.field(l.cfg).Set(target)
	l.origins[o.path] = v.at
}

// setList gives a list its items. An empty list is nil, as in [Default].
func (l *loader) setList(o *option, items []value, at Origin) {
	if len(items) > maxItems {
		l.refuse(o, at, fmt.Sprintf("must have at most %d items", maxItems), nil)
		return
	}
	field := o.field(l.cfg)
	list, ok := reflect.Zero(field.Type()), true
	for i, item := range items {
		target := reflect.New(o.elem).Elem()
		if err := o.parse(item.text, target); err != nil {
			l.refuse(o, item.at, "item "+strconv.Itoa(i+1)+" "+o.complain(err, item.text), err)
			ok = false
			continue
		}
		list = reflect.Append(list, target)
	}
	if ok {
		field.Set(list)
		l.origins[o.path] = at
	}
}

// complain joins what is accepted with what was given, unless that is secret.
func (o *option) complain(err error, text string) string {
	if o.secret() || text == "" {
		return err.Error()
	}
	return err.Error() + ", not " + quoted(text)
}

// readFlags is the highest layer.
func (l *loader) readFlags(flags map[string]string) {
	leaves := map[string]*option{}
	for _, o := range l.schema.leaves() {
		leaves[o.path] = o
	}
	for _, path := range slices.Sorted(maps.Keys(flags)) {
		at := Origin{Layer: LayerFlag, Name: path}
		o := leaves[path]
		if o == nil {
			l.fail(at, path, "unknown option"+suggest(path, slices.Sorted(maps.Keys(leaves))), nil)
			continue
		}
		l.setWords(o, value{flags[path], at})
	}
}

// setWords gives an option its value from one text; the items of a list are
// separated by commas.
func (l *loader) setWords(o *option, v value) {
	if !o.list {
		l.setText(o, v)
		return
	}
	var items []value
	for _, text := range splitWords(v.text) {
		items = append(items, value{text, v.at})
	}
	l.setList(o, items, v.at)
}
