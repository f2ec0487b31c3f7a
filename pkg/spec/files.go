package spec

import (
	"reflect"
	"strings"

	"github.com/keywarden/keywarden/pkg/strictyaml"
)

// File is a file that a document names.
type File struct {
	Path string // of the field, such as services[0].tls.ca_file
	Name string
}

// Files lists the files that the document names: the values of all fields whose
// name ends in _file.
func (d *Document) Files() []File {
	var files []File
	collectFiles("", reflect.ValueOf(d).Elem(), &files)
	return files
}

func collectFiles(path string, v reflect.Value, files *[]File) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			collectFiles(path, v.Elem(), files)
		}
	case reflect.Slice:
		for i := range v.Len() {
			collectFiles(strictyaml.Index(path, i), v.Index(i), files)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name := strictyaml.FieldName(f)
			switch {
			case !f.IsExported():
			case f.Anonymous:
				collectFiles(path, v.Field(i), files)
			case strings.HasSuffix(name, "_file") && v.Field(i).Kind() == reflect.String:
				if file := v.Field(i).String(); file != "" {
					*files = append(*files, File{strings.TrimPrefix(path+"."+name, "."), file})
				}
			default:
				collectFiles(strings.TrimPrefix(path+"."+name, "."), v.Field(i), files)
			}
		}
	}
}
