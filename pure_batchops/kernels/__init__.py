"""Functions of torch in plain operations, where torch's own have wrong or no derivatives, or fail under torch.func.

table.py           which function of torch is replaced by which
norms.py           layer, batch, instance and group norm
first_order.py     where torch's fused norms serve
standardized.py    what the norms have in common
weight_norm.py     weight norm
cells.py           one step of LSTM, GRU and RNN
recurrent.py       whole LSTMs, GRUs and RNNs
packed.py          packed sequences
attention.py       scaled dot products
activations.py     activations
distances.py       distances between the rows of matrices
embedding.py       embeddings
embedding_bag.py   sums, means and maxima of embeddings
losses.py          losses by element
margins.py         losses with margins
linear_algebra.py  solutions, determinants, and products of reflections
reduction.py       the reduction of a loss
"""
