package spec

// BasicAuth is filled in by its owner.
type BasicAuth struct {
	Gate
}

func (*BasicAuth) validate(path string, v *validator) {}
