package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// load is a number of connections that each send one request after the other. It
// is not net/http's client, which would cost more than what is measured.
type load struct {
	addr        string
	request     []byte
	connections int

	done atomic.Int64 // whole answers with status 200
}

// run sends until ctx ends. Any other answer than a whole 200 is an error.
func (l *load) run(ctx context.Context) error {
	var group sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range l.connections {
		group.Go(func() {
			if err := l.connection(ctx); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	return nil
}

// answerTimeout bounds one exchange.
const answerTimeout = 30 * time.Second

func (l *load) connection(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Hour)); err != nil {
		return err
	}
	// The end of ctx ends a read that waits for an answer that never comes.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now().Add(answerTimeout)) })
	defer stop()
	in := bufio.NewReaderSize(conn, 4<<10)
	for ctx.Err() == nil {
		if _, err := conn.Write(l.request); err != nil {
			return err
		}
		if err := readAnswer(in); err != nil {
			return err
		}
		l.done.Add(1)
	}
	return nil
}

var (
	statusOK      = []byte("HTTP/1.1 200")
	contentLength = []byte("Content-Length: ")
)

// readAnswer reads one answer with a known length.
func readAnswer(in *bufio.Reader) error {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, statusOK) {
		return fmt.Errorf("answered %q", line)
	}
	length := -1
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(bytes.TrimRight(value, "\r\n"))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without Content-Length")
	}
	_, err = in.Discard(length)
	return err
}
