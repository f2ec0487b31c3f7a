//go:build !linux

package front

// Available says that the front cannot serve here: it would not see that a client has
// gone.
const Available = false

func (*connection) gone() bool { return false }
