package proxy

// maxChunkLine bounds a chunk's line and maxTrailerBytes the trailer
// section: nobody in the field sends either.
const (
	maxChunkLine    = 1 << 10
	maxTrailerBytes = 16 << 10
)

// chunks follows a chunked body, RFC 9112 section 7.1, through the pieces in
// which it comes, and finds its end. The bytes go on as they came.
type chunks struct {
	// lenient takes LF for CRLF, as clients do; requests are read strictly.
	lenient bool

	state   chunkState
	size    int64 // of the chunk; then what is left of it
	digits  int
	counted int // bytes of the line or of the trailer section so far
	// trailerAt is where the trailer section begins, or goes on, in the data
	// that was scanned last; -1 when it does not.
	trailerAt int
	empty     bool
}

type chunkState byte

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkLineLF // after the CR of the line
	chunkData
	chunkCR
	chunkLF
	trailerStart // at the beginning of a trailer's line
	trailerName  // where it must be read strictly
	trailerLine
	trailerLF // after the CR of a trailer's line, or of the last empty line
	chunksDone
)

// scan reads on. It returns how many bytes of data belong to the body: all,
// unless it ends within.
func (c *chunks) scan(data []byte) (n int, done bool, err error) {
	c.trailerAt = -1
	if c.state >= trailerStart {
		c.trailerAt = 0
	}
	for n < len(data) {
		if c.state == chunkData {
			if left := int64(len(data) - n); left < c.size {
				c.size -= left
				return len(data), false, nil
			}
			n += int(c.size)
			c.size, c.state = 0, chunkCR
			continue
		}
		b := data[n]
		n++
		if err := c.step(b); err != nil {
			return n, false, err
		}
		if c.state == trailerStart && c.trailerAt < 0 {
			c.trailerAt = n
		}
		if c.state == chunksDone {
			return n, true, nil
		}
	}
	return n, false, nil
}

// step reads a byte that is not data.
func (c *chunks) step(b byte) error {
	switch c.state {
	case chunkSize:
		return c.sizeByte(b)
	case chunkExtension:
		c.counted++
		switch {
		case b == '\r':
			c.state = chunkLineLF
		case b == '\n' && c.lenient:
			c.endLine()
		case class[b]&valueChar == 0 || c.counted > maxChunkLine:
			return errChunk
		}
	case chunkLineLF:
		if b != '\n' {
			return errChunk
		}
		c.endLine()
	case chunkCR:
		switch {
		case b == '\r':
			c.state = chunkLF
		case b == '\n' && c.lenient:
			c.state = chunkSize
		default:
			return errChunk
		}
	case chunkLF:
		if b != '\n' {
			return errChunk
		}
		c.state = chunkSize
	default:
		return c.trailerByte(b)
	}
	return nil
}

func (c *chunks) sizeByte(b byte) error {
	switch {
	case class[b]&hexDigit != 0:
		if c.digits++; c.digits > 15 {
			return errChunk
		}
		c.size = c.size<<4 | int64(hexValue(b))
		return nil
	case c.digits == 0:
		return errChunk
	case b == '\r':
		c.state = chunkLineLF
	case b == ';' || (b == ' ' || b == '\t') && c.lenient:
		c.state = chunkExtension
	case b == '\n' && c.lenient:
		c.endLine()
	default:
		return errChunk
	}
	return nil
}

func hexValue(b byte) byte {
	switch {
	case b <= '9':
		return b - '0'
	case b >= 'a':
		return b - 'a' + 10
	}
	return b - 'A' + 10
}

// endLine ends a chunk's line: data follows, or the trailer section.
func (c *chunks) endLine() {
	c.digits, c.counted = 0, 0
	if c.size == 0 {
		c.state = trailerStart
		return
	}
	c.state = chunkData
}

func (c *chunks) trailerByte(b byte) error {
	if c.counted++; c.counted > maxTrailerBytes {
		return errChunk
	}
	switch {
	case c.state == trailerLF:
		if b != '\n' {
			return errChunk
		}
		c.endTrailerLine()
	case c.state == trailerName && b != ':' && class[b]&token == 0:
		return errChunk // space before the colon, or no colon
	case c.state == trailerName:
		if b == ':' {
			c.state = trailerLine
		}
	case b == '\r':
		c.empty = c.state == trailerStart
		c.state = trailerLF
	case b == '\n':
		if !c.lenient {
			return errChunk
		}
		c.empty = c.state == trailerStart
		c.endTrailerLine()
	case class[b]&valueChar == 0 || c.state == trailerStart && !c.lenient && class[b]&token == 0:
		return errChunk
	case c.state == trailerStart && !c.lenient:
		c.state = trailerName
	default:
		c.state = trailerLine
	}
	return nil
}

func (c *chunks) endTrailerLine() {
	if c.empty {
		c.state = chunksDone
		return
	}
	c.state = trailerStart
}
