package pages

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// A frame:
//
//	magic u32, pages u32, bytes of the compressed pages u32, CRC-32C of all but itself u32
//	hash of each page
//	the pages, compressed by zstd
const (
	frameMagic = 0x73706672 // "spfr"
	frameHead  = 16
	// framePages is how many pages a frame has at most. A larger one would compress little better, and a single page costs the decompression of a frame.
	framePages = 64
	// maxFrame bounds a frame, in bytes: what zstd cannot compress it stores, with some bytes per block around it.
	maxFrame = frameHead + framePages*(len(Hash{})+PageSize) + PageSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// codec compresses and decompresses. Its methods may be called at the same time.
type codec struct {
	encoder *zstd.Encoder
	decoder *zstd.Decoder
}

func newCodec() (*codec, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(framePages*PageSize))
	if err != nil {
		return nil, err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &codec{encoder, decoder}, nil
}

// frame makes one of 1 to framePages pages.
func (c *codec) frame(hashes []Hash, pages []byte) []byte {
	b := make([]byte, frameHead, frameHead+len(hashes)*len(Hash{})+len(pages)/2)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	head := len(b)
	b = c.encoder.EncodeAll(pages, b)
	binary.BigEndian.PutUint32(b[0:], frameMagic)
	binary.BigEndian.PutUint32(b[4:], uint32(len(hashes)))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-head))
	binary.BigEndian.PutUint32(b[12:], frameSum(b))
	return b
}

func frameSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[frameHead:])
}

// frame is one that was read and is whole.
type frame struct {
	hashes []Hash
	packed []byte
}

// parseFrame takes a frame apart. b has nothing else.
func parseFrame(b []byte) (frame, error) {
	if len(b) < frameHead || len(b) > maxFrame || binary.BigEndian.Uint32(b) != frameMagic || binary.BigEndian.Uint32(b[12:]) != frameSum(b) {
		return frame{}, errDamaged
	}
	n, packed := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	if n == 0 || n > framePages || uint64(len(b)) != frameHead+uint64(n)*uint64(len(Hash{}))+uint64(packed) {
		return frame{}, errDamaged
	}
	f := frame{hashes: make([]Hash, n)}
	b = b[frameHead:]
	for i := range f.hashes {
		b = b[copy(f.hashes[i][:], b):]
	}
	f.packed = b
	return f, nil
}

// pages decompresses those of a frame into a buffer of framePages pages.
func (c *codec) pages(f frame, buffer []byte) ([]byte, error) {
	pages, err := c.decoder.DecodeAll(f.packed, buffer[:0:framePages*PageSize])
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(pages) != len(f.hashes)*PageSize {
		return nil, errDamaged
	}
	return pages, nil
}
