/*
 * Memory as two processors of x86 see each other's: a store waits in its
 * processor's buffer, of one entry here, until it drains at some later moment;
 * the processor itself sees it at once. A fence waits until the buffer is empty.
 *
 * The model that includes this defines PROCESSORS and WORDS, and starts one
 * drain() for each processor.
 */
byte memory[WORDS];
bool buffered[PROCESSORS];
byte buffered_word[PROCESSORS];
byte buffered_value[PROCESSORS];

inline store(self, word, value)
{
	atomic {
		!buffered[self];
		buffered_word[self] = word;
		buffered_value[self] = value;
		buffered[self] = true
	}
}

inline load(self, word, into)
{
	atomic {
		if
		:: buffered[self] && buffered_word[self] == word ->
			into = buffered_value[self]
		:: else ->
			into = memory[word]
		fi
	}
}

inline fence(self)
{
	!buffered[self]
}

proctype drain(byte self)
{
end:
	do
	:: d_step {
		buffered[self];
		memory[buffered_word[self]] = buffered_value[self];
		buffered[self] = false
	   }
	od
}
