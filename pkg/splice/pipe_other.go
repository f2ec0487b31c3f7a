//go:build !linux

package splice

import "syscall"

// Pipe cannot be had on this system.
type Pipe struct {
	held   int
	broken bool
}

func open() *Pipe { return nil }

func (p *Pipe) close() {}

// Size is 0.
func (p *Pipe) Size() int { return 0 }

// Fill is never called.
func (p *Pipe) Fill(syscall.RawConn, int64) (int, error) { return 0, ErrUnavailable }

// Drain is never called.
func (p *Pipe) Drain(syscall.RawConn) (int, error) { return 0, ErrUnavailable }
