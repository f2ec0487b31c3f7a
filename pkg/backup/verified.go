package backup

import (
	"crypto/sha256"
	"errors"
	"io"
)

// blockSize is how much is read at once of what was verified.
const blockSize = 1 << 20

// block is the sum of one block, of which all but the last have [blockSize].
type block [sha256.Size]byte

// blocksOf sums r up.
func blocksOf(r io.Reader) (sums []block, err error) {
	buffer := make([]byte, blockSize)
	for {
		n, err := io.ReadFull(r, buffer)
		if n > 0 {
			sums = append(sums, sha256.Sum256(buffer[:n]))
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return sums, nil
		case err != nil:
			return nil, err
		}
	}
}

// verified gives out what was summed up, and nothing else: what it reads is executed,
// and whoever can write to the file could change it after it was verified.
type verified struct {
	r      io.Reader
	sums   []block
	buffer []byte // of one block
	rest   []byte // of the buffer, that was not given out yet
	err    error
}

func newVerified(r io.Reader, sums []block) *verified {
	return &verified{r: r, sums: sums, buffer: make([]byte, blockSize)}
}

var errChanged = errors.New("the file was changed while it was read")

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	if len(v.rest) == 0 && v.err == nil {
		v.err = v.next()
	}
	if len(v.rest) == 0 {
		return 0, v.err
	}
	n := copy(p, v.rest)
	v.rest = v.rest[n:]
	return n, nil
}

// next reads a block and compares it.
func (v *verified) next() error {
	n, err := io.ReadFull(v.r, v.buffer)
	switch {
	case n == 0 && errors.Is(err, io.EOF) && len(v.sums) == 0:
		return io.EOF
	case n > 0 && errors.Is(err, io.ErrUnexpectedEOF): // the last one
	case n == 0 && errors.Is(err, io.EOF):
		return errChanged
	case err != nil:
		return err
	}
	if len(v.sums) == 0 || sha256.Sum256(v.buffer[:n]) != v.sums[0] {
		return errChanged
	}
	v.sums, v.rest = v.sums[1:], v.buffer[:n]
	return nil
}
