//go:build !unix || aix || solaris

package pglocal

import (
	"context"
	"fmt"
	"runtime"
)

// Binaries are the programs of one PostgreSQL installation.
type Binaries struct {
	Dir     string
	Version string
	Major   int
}

// Server is a running private PostgreSQL; there is none on this system.
type Server struct{}

var errUnsupported = fmt.Errorf("%w: a private PostgreSQL is not supported on %s; set DATABASE_URL to an existing server",
	ErrNotInstalled, runtime.GOOS)

// Find always fails on this system.
func Find(context.Context, string) (Binaries, error) { return Binaries{}, errUnsupported }

// Start always fails on this system.
func Start(context.Context, Options) (*Server, error) { return nil, errUnsupported }

// Running always fails on this system.
func Running(string) (string, error) { return "", errUnsupported }

// Remove always fails on this system.
func Remove(context.Context, string) error { return errUnsupported }

// URL is never called: there is no server.
func (*Server) URL() string { return "" }

// AdminURL is never called: there is no server.
func (*Server) AdminURL() string { return "" }

// Done is never called: there is no server.
func (*Server) Done() <-chan struct{} { return nil }

// Err is never called: there is no server.
func (*Server) Err() error { return errUnsupported }

// Stop is never called: there is no server.
func (*Server) Stop(context.Context) error { return errUnsupported }
