package policies

import (
	"strings"

	"github.com/keywarden/keywarden/pkg/spec/check"
)

// BasicAuth presents a user name and a password (RFC 7617) to the service, in
// place of the caller's credential.
type BasicAuth struct {
	Gate
	Username string `json:"username"`

	// PasswordFile names the file with the password, without which it cannot be
	// applied. It is read when the document is applied.
	PasswordFile string `json:"password_file"`
}

// maxUsername bounds a user name, in bytes.
const maxUsername = 256

func (b *BasicAuth) Validate(path string, v *check.Checker) {
	switch {
	case b.Username == "":
		v.Required(path + ".username")
	case len(b.Username) > maxUsername || strings.ContainsFunc(b.Username, func(c rune) bool { return c == ':' || c < ' ' || c == 0x7F }):
		v.Fail(path+".username", "must be at most %d bytes, without a colon and control characters", maxUsername)
	}
	if b.PasswordFile == "" {
		v.Required(path + ".password_file")
	}
}
