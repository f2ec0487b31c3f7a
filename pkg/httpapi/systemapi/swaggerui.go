package systemapi

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"strings"

	swaggerfiles "github.com/swaggo/files/v2"
	"golang.org/x/net/webdav"
)

// swaggerUI serves the files of Swagger UI from the program itself: nothing of them is in
// memory until it is asked for.
func swaggerUI() *webdav.Handler {
	return &webdav.Handler{FileSystem: readOnly{swaggerfiles.FS}, LockSystem: webdav.NewMemLS()}
}

// readOnly is a file system that can be read; it implements [webdav.FileSystem].
type readOnly struct{ files fs.FS }

// OpenFile implements [webdav.FileSystem].
func (r readOnly) OpenFile(_ context.Context, name string, flag int, _ os.FileMode) (webdav.File, error) {
	if flag != os.O_RDONLY {
		return nil, fs.ErrPermission
	}
	f, err := http.FS(r.files).Open("/" + strings.TrimPrefix(name, "/"))
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f}, nil
}

// Stat implements [webdav.FileSystem].
func (r readOnly) Stat(_ context.Context, name string) (os.FileInfo, error) {
	return fs.Stat(r.files, strings.TrimPrefix(name, "/"))
}

// Mkdir implements [webdav.FileSystem].
func (readOnly) Mkdir(context.Context, string, os.FileMode) error { return fs.ErrPermission }

// RemoveAll implements [webdav.FileSystem].
func (readOnly) RemoveAll(context.Context, string) error { return fs.ErrPermission }

// Rename implements [webdav.FileSystem].
func (readOnly) Rename(context.Context, string, string) error { return fs.ErrPermission }

type readOnlyFile struct{ http.File }

// Write implements [webdav.File].
func (readOnlyFile) Write([]byte) (int, error) { return 0, fs.ErrPermission }
