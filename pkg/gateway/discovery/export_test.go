package discovery

// What the tests look at.
var (
	Clean       = clean
	ErrNonsense = errNonsense
)
